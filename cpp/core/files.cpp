#include "core/files.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <system_error>
#include <utility>

#include "core/error.h"

namespace quarrel {
namespace {

std::string reason(int error) { return std::generic_category().message(error); }

std::string folder_of(const std::string& path) {
  const std::size_t slash = path.rfind('/');
  if (slash == std::string::npos) return ".";
  return slash == 0 ? "/" : path.substr(0, slash);
}

// Whether the open file still is the one that the path names.
bool is_named(int file, const std::string& path) {
  struct stat open_one, named_one;
  return fstat(file, &open_one) == 0 && stat(path.c_str(), &named_one) == 0 &&
         open_one.st_dev == named_one.st_dev && open_one.st_ino == named_one.st_ino;
}

}  // namespace

AtomicFile::AtomicFile(std::string path) : path_(std::move(path)), partial_(path_ + ".partial") {
  struct stat target;
  if (stat(path_.c_str(), &target) == 0 && !S_ISREG(target.st_mode))
    throw SnapshotError(path_ + " is no plain file; choose another name to save to.");
  do {
    if (file_ >= 0) close(std::exchange(file_, -1));
    open_partial();
  } while (!is_named(file_, partial_));  // its last writer may have renamed it just now
  if (ftruncate(file_, 0) == 0) return;
  const int error = errno;
  close(std::exchange(file_, -1));
  fail(error);
}

// The lock keeps two writers from mixing their bytes; it ends with its process.
void AtomicFile::open_partial() {
  file_ = open(partial_.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
  if (file_ < 0) fail(errno);
  if (flock(file_, LOCK_EX | LOCK_NB) == 0) return;
  const int error = errno;
  close(std::exchange(file_, -1));
  if (error != EWOULDBLOCK) fail(error);
  throw SnapshotError(path_ + " is being written by another process; wait for it to end.");
}

AtomicFile::~AtomicFile() {
  if (file_ < 0) return;
  unlink(partial_.c_str());
  close(file_);
}

void AtomicFile::fail(int error) const {
  throw SnapshotError(path_ + " cannot be written (" + reason(error) +
                      "); nothing was saved: make room or choose another place.");
}

void AtomicFile::write(std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const ssize_t n = ::write(file_, bytes.data(), bytes.size());
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) fail(n < 0 ? errno : ENOSPC);
    bytes = bytes.subspan(static_cast<std::size_t>(n));
  }
}

void AtomicFile::commit() {
  if (fsync(file_) != 0) fail(errno);
  if (rename(partial_.c_str(), path_.c_str()) != 0) fail(errno);
  close(std::exchange(file_, -1));
  // The rename itself reaches the disk with its folder. Not every file system can sync folders.
  const int folder = open(folder_of(path_).c_str(), O_RDONLY | O_CLOEXEC);
  if (folder < 0) return;
  (void)fsync(folder);
  close(folder);
}

FileSource::FileSource(std::string path) : path_(std::move(path)) {
  file_ = open(path_.c_str(), O_RDONLY | O_CLOEXEC);
  struct stat status;
  if (file_ < 0 || fstat(file_, &status) != 0) {
    const int error = errno;
    if (file_ >= 0) close(file_);
    throw SnapshotError(path_ + " cannot be read (" + reason(error) +
                        "); give a file that was saved before.");
  }
  if (!S_ISREG(status.st_mode)) {
    close(file_);
    throw SnapshotError(path_ + " is no plain file; give a file that was saved before.");
  }
  size_ = static_cast<std::uint64_t>(status.st_size);
}

FileSource::~FileSource() { close(file_); }

void FileSource::read(std::uint64_t offset, std::span<std::byte> out) const {
  while (!out.empty()) {
    const ssize_t n = pread(file_, out.data(), out.size(), static_cast<off_t>(offset));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0)
      throw SnapshotError(path_ + " cannot be read (" + reason(errno) + "); try it once more.");
    if (n == 0) throw SnapshotError(path_ + " became shorter while it was read; save it again.");
    out = out.subspan(static_cast<std::size_t>(n));
    offset += static_cast<std::uint64_t>(n);
  }
}

}  // namespace quarrel
