// A bounds-checked cursor over the bytes of a GGUF file. Internal to the reader.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <string_view>

namespace quarrel::gguf {

class ByteReader {
 public:
  // Borrows both; they must outlive the reader.
  ByteReader(std::span<const std::byte> bytes, std::string_view file)
      : bytes_(bytes), file_(file) {}

  std::uint64_t position() const { return position_; }
  std::uint64_t remaining() const { return bytes_.size() - position_; }

  // What errors are about from now on: the header, or a key or tensor by its name.
  void set_subject(std::string_view kind, std::string_view name = {}) {
    kind_ = kind;
    name_ = name;
  }

  // Every read takes the name of the field for the error that a short file gives.
  template <class T>
  T read(std::string_view field) {
    T value;
    std::memcpy(&value, take(sizeof value, field).data(), sizeof value);
    return value;
  }

  // A 64-bit length and that many bytes, as a view into the file.
  std::string_view read_string(std::string_view field);

  std::span<const std::byte> take(std::uint64_t n_bytes, std::string_view field);

  // Checks a count found in the file before anything is allocated or looped over for it.
  void expect_room(std::uint64_t count, std::uint64_t min_bytes_each, std::string_view field);

  [[noreturn]] void fail(std::string_view problem) const { fail(problem, position_); }
  [[noreturn]] void fail(std::string_view problem, std::uint64_t offset) const;

 private:
  std::span<const std::byte> bytes_;
  std::string_view file_;
  std::uint64_t position_ = 0;
  std::string kind_ = "header";
  std::string_view name_;
};

}  // namespace quarrel::gguf
