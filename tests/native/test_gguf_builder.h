// Writes small GGUF files for the native tests of the reader.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

namespace quarrel::gguf::testing {

// Bytes that grow at the end; a file is written in the order of its layout.
class Builder {
 public:
  template <class T>
    requires std::is_arithmetic_v<T>
  Builder& put(T value) {
    const auto bytes = std::as_bytes(std::span(&value, 1));
    bytes_.insert(bytes_.end(), bytes.begin(), bytes.end());
    return *this;
  }

  Builder& text(std::string_view value) {
    put<std::uint64_t>(value.size());
    const auto bytes = std::as_bytes(std::span(value));
    bytes_.insert(bytes_.end(), bytes.begin(), bytes.end());
    return *this;
  }

  Builder& header(std::uint64_t n_tensors, std::uint64_t n_entries, std::uint32_t version = 3) {
    for (const char letter : std::string_view("GGUF")) put(letter);
    return put(version).put(n_tensors).put(n_entries);
  }

  // The head of a metadata entry; its value follows.
  Builder& key(std::string_view name, std::uint32_t type) { return text(name).put(type); }

  Builder& tensor(std::string_view name, const std::vector<std::uint64_t>& shape,
                  std::uint32_t type, std::uint64_t offset) {
    text(name).put(static_cast<std::uint32_t>(shape.size()));
    for (const std::uint64_t length : shape) put(length);
    return put(type).put(offset);
  }

  Builder& pad(std::size_t alignment = 32) {
    while (bytes_.size() % alignment != 0) bytes_.push_back(std::byte{0});
    return *this;
  }

  const std::vector<std::byte>& bytes() const { return bytes_; }

 private:
  std::vector<std::byte> bytes_;
};

// A file with scalars, strings and arrays, a float tensor "a" of 2 rows of 4 and a Q8_0 tensor "b"
// of one block, all of it well formed.
inline std::vector<std::byte> good_file(std::uint32_t version = 3) {
  Builder file;
  file.header(2, 6, version);
  file.key("general.architecture", 8).text("toy");
  file.key("general.alignment", 4).put<std::uint32_t>(32);
  file.key("half", 6).put(0.5f);
  file.key("yes", 7).put<std::uint8_t>(1);
  file.key("tokens", 9).put<std::uint32_t>(8).put<std::uint64_t>(3).text("a").text("").text("bc");
  file.key("scores", 9).put<std::uint32_t>(5).put<std::uint64_t>(2).put(-1).put(7);
  file.tensor("a", {4, 2}, 0, 0).tensor("b", {32}, 8, 32).pad();
  for (int i = 0; i < 8; ++i) file.put(static_cast<float>(i));
  file.put<std::uint16_t>(0x3c00);  // the block's scale, 1.0
  for (int i = 0; i < 32; ++i) file.put(static_cast<std::int8_t>(i - 16));
  return file.bytes();
}

}  // namespace quarrel::gguf::testing
