// Files that appear whole or not at all, and bytes to read at any place.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

namespace quarrel {

// Writes beside the target and renames when all is on the disk: whoever opens the target sees the
// old file or the whole new one, also after a crash or on a full disk. What a killed writer leaves
// is called TARGET.partial and is taken over by the next one. Throws SnapshotError.
class AtomicFile {
 public:
  explicit AtomicFile(std::string path);
  ~AtomicFile();  // without commit() nothing is left behind
  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;

  void write(std::span<const std::byte> bytes);
  void commit();

 private:
  [[noreturn]] void fail(int error) const;
  void open_partial();

  const std::string path_;
  const std::string partial_;
  int file_ = -1;
};

// Throws SnapshotError where bytes are missing or cannot be read.
class ByteSource {
 public:
  virtual ~ByteSource() = default;
  virtual const std::string& name() const = 0;  // for messages
  virtual std::uint64_t size() const = 0;
  virtual void read(std::uint64_t offset, std::span<std::byte> out) const = 0;
};

class FileSource final : public ByteSource {
 public:
  explicit FileSource(std::string path);
  ~FileSource() override;
  FileSource(const FileSource&) = delete;
  FileSource& operator=(const FileSource&) = delete;
  const std::string& name() const override { return path_; }
  std::uint64_t size() const override { return size_; }
  void read(std::uint64_t offset, std::span<std::byte> out) const override;

 private:
  const std::string path_;
  int file_ = -1;
  std::uint64_t size_ = 0;
};

}  // namespace quarrel
