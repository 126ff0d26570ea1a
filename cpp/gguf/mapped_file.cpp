#include "gguf/mapped_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <string>
#include <system_error>
#include <utility>

#include "gguf/format_error.h"

namespace quarrel::gguf {
namespace {

std::string reason(int error) { return std::system_category().message(error); }

struct FileDescriptor {
  int value;
  ~FileDescriptor() { ::close(value); }
};

std::size_t regular_file_bytes(int descriptor, const std::filesystem::path& path) {
  struct stat status{};
  if (::fstat(descriptor, &status) != 0)
    fail_file(path.native(), "cannot be read (" + reason(errno) + ")");
  if (S_ISDIR(status.st_mode))
    fail_file(path.native(), "is a directory; name the .gguf file inside it");
  if (!S_ISREG(status.st_mode))
    fail_file(path.native(), "is not a regular file; copy the model to a file");
  if (status.st_size == 0)
    fail_file(path.native(), "is empty, a download may have failed; fetch it again");
  return static_cast<std::size_t>(status.st_size);
}

}  // namespace

MappedFile::MappedFile(const std::filesystem::path& path) {
  // Without O_NONBLOCK, opening a named pipe would wait for its writer.
  const int opened = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (opened < 0) {
    const int error = errno;
    if (error == ENOENT || error == ENOTDIR)
      fail_file(path.native(), "no such file; check the path");
    fail_file(path.native(), "cannot be opened (" + reason(error) + "); check its permissions");
  }
  const FileDescriptor descriptor{opened};
  const std::size_t size = regular_file_bytes(opened, path);
  void* address = ::mmap(nullptr, size, PROT_READ, MAP_PRIVATE, opened, 0);
  if (address == MAP_FAILED)
    fail_file(path.native(), "cannot be mapped into memory (" + reason(errno) + ")");
  bytes_ = {static_cast<const std::byte*>(address), size};
}

MappedFile::~MappedFile() {
  if (!bytes_.empty()) ::munmap(const_cast<std::byte*>(bytes_.data()), bytes_.size());
}

MappedFile::MappedFile(MappedFile&& other) noexcept : bytes_(std::exchange(other.bytes_, {})) {}

void MappedFile::release_pages() const {
  ::madvise(const_cast<std::byte*>(bytes_.data()), bytes_.size(), MADV_DONTNEED);
}

}  // namespace quarrel::gguf
