// Many short strings in two allocations.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>
#include <vector>

namespace quarrel {

// Bytes of any kind, 4 GiB together at most.
class Strings {
 public:
  void reserve(std::size_t n_strings, std::size_t n_bytes) {
    ends_.reserve(n_strings);
    bytes_.reserve(n_bytes);
  }
  // Throws InvalidArgument beyond 4 GiB.
  void push_back(std::string_view text);

  std::size_t size() const { return ends_.size(); }
  std::string_view operator[](std::size_t index) const {
    const std::size_t begin = index == 0 ? 0 : ends_[index - 1];
    return {bytes_.data() + begin, ends_[index] - begin};
  }

 private:
  std::vector<char> bytes_;
  std::vector<std::uint32_t> ends_;
};

}  // namespace quarrel
