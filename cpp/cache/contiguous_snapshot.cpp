// Saving and restoring of the contiguous cache.
#include <algorithm>
#include <ranges>
#include <utility>

#include "cache/contiguous_cache.h"
#include "cache/layer_groups.h"
#include "core/error.h"

namespace quarrel {
namespace {

bool in_every_group(const CachedTexts& texts, std::size_t at) {
  for (std::size_t g = 0; g < texts.n_groups; ++g)
    if (texts.block(at, g) == kNoBlock) return false;
  return true;
}

// The text that ends at a leaf, as far as every group holds all of it. A group with a window may
// have let go of its beginning; this strategy has no use for the rest.
std::vector<std::size_t> whole_path(const CachedTexts& texts, std::size_t leaf) {
  auto path = texts.path(leaf);
  const auto lost = std::ranges::find_if(path, [&](auto at) { return !in_every_group(texts, at); });
  path.erase(lost, path.end());
  return path;
}

std::vector<TokenId> text_of(const CachedTexts& texts, const std::vector<std::size_t>& path) {
  std::vector<TokenId> text;
  for (const std::size_t at : path)
    text.insert(text.end(), texts.text(at).begin(), texts.text(at).end());
  return text;
}

std::vector<std::size_t> leaves(const CachedTexts& texts) {
  std::vector<bool> has_children(texts.size(), false);
  for (const std::int32_t parent : texts.parents)
    if (parent != CachedTexts::kNoParent) has_children[static_cast<std::size_t>(parent)] = true;
  std::vector<std::size_t> leaves;
  for (std::size_t at = 0; at < texts.size(); ++at)
    if (!has_children[at]) leaves.push_back(at);
  return leaves;
}

}  // namespace

CachedTexts ContiguousCache::cached_texts() const {
  CachedTexts texts{block_size_, n_groups_, {}, {}, {}, {}};
  if (!reuse_prefixes_) return texts;
  const auto add = [&](const Sequence& sequence) {
    BlockTables tables(n_groups_);
    for (std::size_t g = 0; g < n_groups_; ++g) tables[g] = sequence.blocks;
    texts.add_chain(sequence.tokens, tables);
  };
  for (const auto& [id, sequence] : live_) add(sequence);
  for (const Sequence& sequence : parked_ | std::views::reverse) add(sequence);
  return texts;
}

bool ContiguousCache::is_known(std::span<const TokenId> text) const {
  const auto begins_so = [&](const Sequence& s) {
    return s.tokens.size() >= text.size() &&
           std::ranges::equal(std::span(s.tokens).first(text.size()), text);
  };
  return std::ranges::any_of(parked_, begins_so) || std::ranges::any_of(adopted_, begins_so);
}

std::vector<BlockFill> ContiguousCache::adopt(const CachedTexts& texts) {
  std::vector<BlockFill> fills;
  if (!reuse_prefixes_) return fills;
  for (const std::size_t leaf : leaves(texts)) {
    const auto path = whole_path(texts, leaf);
    Sequence sequence{text_of(texts, path), 0, {}};
    sequence.max_tokens = sequence.tokens.size();
    if (path.empty() || is_known(sequence.tokens)) continue;
    // Parked texts do not go in vain where there is not room enough anyway.
    if (path.size() > free_.n_free() + n_parked_blocks_ || !give_run(sequence)) continue;
    for (std::size_t b = 0; b < path.size(); ++b)
      for (std::size_t g = 0; g < n_groups_; ++g) fills.push_back({path[b], g, sequence.blocks[b]});
    adopted_.push_back(std::move(sequence));
  }
  publish_stats();
  return fills;
}

void ContiguousCache::settle(bool filled) {
  for (Sequence& sequence : adopted_ | std::views::reverse) {
    if (filled) {
      n_parked_blocks_ += sequence.blocks.size();
      parked_.push_back(std::move(sequence));
    } else {
      free_run(sequence);
    }
  }
  adopted_.clear();
  publish_stats();
}

Restored ContiguousCache::restore(const CachedTexts& chain, std::size_t max_tokens) {
  for (std::size_t at = 0; at < chain.size(); ++at)
    if (!in_every_group(chain, at))
      throw InvalidArgument(
          "[contiguous_cache] expected a text with all its blocks, got one that has let go of "
          "those "
          "outside a window; restore it into the strategy that saved it.");
  Sequence sequence{
      {chain.tokens.begin(), chain.tokens.begin() + static_cast<std::ptrdiff_t>(chain.n_tokens())},
      max_tokens,
      {}};
  if (sequence.tokens.size() > max_tokens) return {{false, "sequence_full"}, SequenceId{-1}, {}};
  if (!sequence.tokens.empty() && !give_run(sequence))
    return {{false, "no_free_blocks"}, SequenceId{-1}, {}};
  std::vector<BlockFill> fills;
  for (std::size_t at = 0; at < chain.size(); ++at)
    for (std::size_t g = 0; g < n_groups_; ++g) fills.push_back({at, g, sequence.blocks[at]});
  const SequenceId id = open(std::move(sequence));
  publish_stats();
  return {{true, ""}, id, std::move(fills)};
}

}  // namespace quarrel
