// Lookup by name in a list that keeps its own order.
#pragma once

#include <cstddef>
#include <optional>
#include <string_view>
#include <vector>

namespace quarrel::gguf {

// Sorted rather than hashed: names come from an untrusted file, and no choice of names makes
// sorting slow.
class NameIndex {
 public:
  NameIndex() = default;
  // The names' characters must outlive the index.
  explicit NameIndex(const std::vector<std::string_view>& names);

  std::optional<std::size_t> find(std::string_view name) const;

  struct Duplicate {
    std::size_t first;
    std::size_t second;
  };
  // Two positions that hold the same name, if there are any.
  std::optional<Duplicate> duplicate() const;

 private:
  struct Entry {
    std::string_view name;
    std::size_t position;
  };
  std::vector<Entry> sorted_;
};

}  // namespace quarrel::gguf
