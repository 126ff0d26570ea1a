#include "gguf/name_index.h"

#include <algorithm>
#include <tuple>

namespace quarrel::gguf {

NameIndex::NameIndex(const std::vector<std::string_view>& names) {
  sorted_.reserve(names.size());
  for (std::size_t i = 0; i < names.size(); ++i) sorted_.push_back({names[i], i});
  std::ranges::sort(sorted_, [](const Entry& a, const Entry& b) {
    return std::tie(a.name, a.position) < std::tie(b.name, b.position);
  });
}

std::optional<std::size_t> NameIndex::find(std::string_view name) const {
  const auto found = std::ranges::lower_bound(sorted_, name, {}, &Entry::name);
  if (found == sorted_.end() || found->name != name) return std::nullopt;
  return found->position;
}

std::optional<NameIndex::Duplicate> NameIndex::duplicate() const {
  const auto found = std::ranges::adjacent_find(sorted_, {}, &Entry::name);
  if (found == sorted_.end()) return std::nullopt;
  return Duplicate{found->position, std::next(found)->position};
}

}  // namespace quarrel::gguf
