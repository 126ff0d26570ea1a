#include "cache/cached_texts.h"

#include <algorithm>
#include <numeric>

namespace quarrel {

std::int32_t CachedTexts::add(std::int32_t parent, std::span<const TokenId> text) {
  parents.push_back(parent);
  lengths.push_back(static_cast<std::uint32_t>(text.size()));
  tokens.insert(tokens.end(), text.begin(), text.end());
  tokens.resize(parents.size() * block_size, 0);
  blocks.resize(parents.size() * n_groups, kNoBlock);
  return static_cast<std::int32_t>(parents.size() - 1);
}

void CachedTexts::add_chain(std::span<const TokenId> text, const BlockTables& tables) {
  std::int32_t parent = kNoParent;
  for (std::size_t b = 0; !text.empty(); ++b) {
    const std::size_t n = std::min(text.size(), block_size);
    parent = add(parent, text.first(n));
    for (std::size_t g = 0; g < n_groups; ++g)
      set_block(static_cast<std::size_t>(parent), g, tables[g][b]);
    text = text.subspan(n);
  }
}

std::size_t CachedTexts::n_tokens() const {
  return std::accumulate(lengths.begin(), lengths.end(), std::size_t{0});
}

std::size_t CachedTexts::n_held_blocks() const {
  return blocks.size() - static_cast<std::size_t>(std::ranges::count(blocks, kNoBlock));
}

std::vector<std::size_t> CachedTexts::path(std::size_t at) const {
  std::vector<std::size_t> path{at};
  while (parents[path.back()] != kNoParent)
    path.push_back(static_cast<std::size_t>(parents[path.back()]));
  std::ranges::reverse(path);
  return path;
}

}  // namespace quarrel
