// Saving and restoring of the contiguous cache.
#include <algorithm>
#include <iterator>
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
  for (const auto& [id, alone] : live_) add(alone.front());
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
  fills.reserve(texts.size() * n_groups_);
  for (const std::size_t leaf : leaves(texts)) adopt_text(texts, whole_path(texts, leaf), fills);
  publish_stats();
  return fills;
}

void ContiguousCache::adopt_text(const CachedTexts& texts, const std::vector<std::size_t>& path,
                                 std::vector<BlockFill>& fills) {
  const std::vector<TokenId> text = text_of(texts, path);
  if (path.empty() || is_known(text)) return;
  // Parked texts do not go in vain where there is not room enough anyway.
  if (path.size() > free_.n_free() + n_parked_blocks_) return;
  Sequence& sequence = adopted_.emplace_back();
  sequence.max_tokens = text.size();
  if (!give_run(sequence).ok) return adopted_.pop_back();
  sequence.tokens.assign(text.begin(), text.end());
  for (std::size_t b = 0; b < path.size(); ++b)
    for (std::size_t g = 0; g < n_groups_; ++g) fills.push_back({path[b], g, sequence.blocks[b]});
}

void ContiguousCache::settle(bool filled) {
  while (!adopted_.empty()) {
    const auto last = std::prev(adopted_.end());
    if (filled) {
      n_parked_blocks_ += last->blocks.size();
      parked_.splice(parked_.end(), adopted_, last);
    } else {
      free_run(*last);
      adopted_.erase(last);
    }
  }
  publish_stats();
}

Restored ContiguousCache::restore(const CachedTexts& chain, std::size_t max_tokens) {
  for (std::size_t at = 0; at < chain.size(); ++at)
    if (!in_every_group(chain, at))
      throw InvalidArgument(
          "[contiguous_cache] expected a text with all its blocks, got one that has let go of "
          "those "
          "outside a window; restore it into the strategy that saved it.");
  if (chain.n_tokens() > max_tokens) return {{false, "sequence_full"}, SequenceId{-1}, {}};
  std::vector<BlockFill> fills;
  fills.reserve(chain.size() * n_groups_);
  const SequenceId id = open({{}, max_tokens, {}, {}});
  Sequence& sequence = live(id);
  if (chain.n_tokens() > 0) {
    if (const Reservation room = give_run(sequence); !room.ok) {
      live_.erase(id);
      return {room, SequenceId{-1}, {}};
    }
  }
  const auto text = std::span(chain.tokens).first(chain.n_tokens());
  sequence.tokens.assign(text.begin(), text.end());
  for (std::size_t at = 0; at < chain.size(); ++at)
    for (std::size_t g = 0; g < n_groups_; ++g) fills.push_back({at, g, sequence.blocks[at]});
  publish_stats();
  return {{true, ""}, id, std::move(fills)};
}

}  // namespace quarrel
