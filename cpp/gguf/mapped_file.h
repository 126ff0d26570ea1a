// A file mapped read-only into memory.
#pragma once

#include <cstddef>
#include <filesystem>
#include <span>

namespace quarrel::gguf {

// Not copyable; unmaps when destroyed. As with every mapping, a file that another process shortens
// while it is mapped ends in SIGBUS when the missing part is touched.
class MappedFile {
 public:
  // ModelFormatError when `path` is missing, unreadable, not a regular file or empty.
  explicit MappedFile(const std::filesystem::path& path);
  ~MappedFile();
  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&&) = delete;

  std::span<const std::byte> bytes() const { return bytes_; }
  // Gives back pages that were read so far; a later access reads them again.
  void release_pages() const;

 private:
  std::span<const std::byte> bytes_;
};

}  // namespace quarrel::gguf
