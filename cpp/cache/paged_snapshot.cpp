// Saving and restoring of the paged strategies.
#include <algorithm>
#include <ranges>
#include <tuple>
#include <utility>

#include "cache/layer_groups.h"
#include "cache/paged_cache.h"
#include "core/error.h"

namespace quarrel {
namespace {

std::size_t index_of(NodeId node) { return static_cast<std::size_t>(node); }

}  // namespace

// ---- The whole prefix cache ------------------------------------------------------------------

// [nodes of the index]: when a node, or a text that goes on after it, was last used; 0 where no
// block is held.
std::vector<std::uint64_t> PagedCache::last_uses() const {
  std::vector<std::uint64_t> uses(index_.n_slots(), 0);
  for (std::size_t i = 1; i < uses.size(); ++i) {
    const NodeId node{static_cast<std::int32_t>(i)};
    if (index_.parent(node) == kNoNode) continue;
    for (std::size_t g = 0; g < pools_.size(); ++g) {
      const BlockId block = index_.block(node, g);
      if (block != kNoBlock) uses[i] = std::max(uses[i], pools_[g].last_use(block));
    }
  }
  for (std::size_t i = 1; i < uses.size(); ++i) {
    if (uses[i] == 0) continue;
    NodeId node = index_.parent(NodeId{static_cast<std::int32_t>(i)});
    for (; node != kRootNode && uses[index_of(node)] < uses[i]; node = index_.parent(node))
      uses[index_of(node)] = uses[i];
  }
  return uses;
}

// Every node that leads to a held block, depth first, the text that was used last first.
std::vector<NodeId> PagedCache::in_order_of_use() const {
  const auto uses = last_uses();
  std::vector<NodeId> nodes;  // siblings together, the one used last at their end
  for (std::size_t i = 1; i < uses.size(); ++i)
    if (uses[i] > 0) nodes.push_back(NodeId{static_cast<std::int32_t>(i)});
  std::ranges::sort(nodes, {}, [&](NodeId n) {
    return std::tuple(index_.parent(n), uses[index_of(n)], ~index_of(n));
  });
  std::vector<NodeId> order;
  std::vector<NodeId> stack;
  NodeId at = kRootNode;
  for (;;) {
    const auto children =
        std::ranges::equal_range(nodes, at, {}, [&](NodeId n) { return index_.parent(n); });
    stack.insert(stack.end(), children.begin(), children.end());
    if (stack.empty()) return order;
    at = stack.back();
    stack.pop_back();
    order.push_back(at);
  }
}

CachedTexts PagedCache::cached_texts() const {
  CachedTexts texts{block_size_, pools_.size(), {}, {}, {}, {}};
  std::vector<std::int32_t> at(index_.n_slots(), CachedTexts::kNoParent);
  for (const NodeId node : in_order_of_use()) {
    const auto parent = at[index_of(index_.parent(node))];
    at[index_of(node)] = texts.add(parent, index_.tokens(node));
    for (std::size_t g = 0; g < pools_.size(); ++g)
      texts.set_block(texts.size() - 1, g, index_.block(node, g));
  }
  return texts;
}

// A group that keeps everything must get the block, else nobody can ever use it.
bool PagedCache::worth_adopting(const CachedTexts& texts, std::size_t at, NodeId known) const {
  if (texts.lengths[at] < block_size_) return false;
  for (std::size_t g = 0; g < pools_.size(); ++g) {
    if (pools_[g].spec().window != 0 || texts.block(at, g) != kNoBlock) continue;
    if (known == kNoNode || index_.block(known, g) == kNoBlock) return false;
  }
  return true;
}

// Whether texts may go on after it.
bool PagedCache::adopt_block(const CachedTexts& texts, std::size_t at, NodeId node,
                             std::vector<BlockFill>& fills) {
  bool whole = true;
  for (std::size_t g = 0; g < pools_.size(); ++g) {
    BlockId block = index_.block(node, g);
    const bool fresh = block == kNoBlock;
    if (!fresh) {
      pools_[g].acquire(block);
    } else {
      if (texts.block(at, g) == kNoBlock) continue;
      block = pools_[g].take();
      if (block == kNoBlock) {
        whole = whole && pools_[g].spec().window != 0;
        continue;
      }
      pools_[g].publish(block, node);
      fills.push_back({at, g, block});
    }
    adopted_blocks_.push_back({g, block, fresh});
  }
  return whole;
}

std::vector<BlockFill> PagedCache::adopt(const CachedTexts& texts) {
  std::vector<BlockFill> fills;
  if (!reuse_prefixes_) return fills;
  std::vector<NodeId> nodes(texts.size(), kNoNode);  // kNoNode: nothing can follow it
  fills.reserve(texts.size() * pools_.size());
  adopted_blocks_.reserve(texts.size() * pools_.size());
  adopted_nodes_.reserve(texts.size());
  for (std::size_t at = 0; at < texts.size(); ++at) {
    const std::int32_t before = texts.parents[at];
    const NodeId parent =
        before == CachedTexts::kNoParent ? kRootNode : nodes[static_cast<std::size_t>(before)];
    if (parent == kNoNode) continue;
    if (!worth_adopting(texts, at, index_.find(parent, texts.text(at)))) continue;
    const NodeId node = add_node(parent, texts.text(at));
    if (node == kNoNode) continue;
    index_.hold(node);
    adopted_nodes_.push_back(node);
    if (adopt_block(texts, at, node, fills)) nodes[at] = node;
  }
  publish_stats();
  return fills;
}

// Backwards, so that texts go from their tails and what was used last goes last.
void PagedCache::settle(bool filled) {
  for (const Adopted& a : adopted_blocks_ | std::views::reverse) {
    if (a.fresh && !filled) pools_[a.group].unpublish(a.block);
    pools_[a.group].drop(a.block);
  }
  for (const NodeId node : adopted_nodes_ | std::views::reverse) index_.let_go(node);
  adopted_blocks_.clear();
  adopted_nodes_.clear();
  publish_stats();
}

// ---- One sequence ----------------------------------------------------------------------------

void PagedCache::check_restorable(const CachedTexts& chain) const {
  for (std::size_t g = 0; g < pools_.size(); ++g) {
    const auto needed = needed_blocks(pools_[g].spec(), block_size_, chain.n_tokens());
    if (!all_needed(needed, [&](std::size_t b) { return chain.block(b, g) != kNoBlock; }))
      throw InvalidArgument(
          "[paged_cache] expected a text with all blocks that its next token sees, got one that "
          "has let go of some; restore it into the strategy that saved it.");
  }
}

// Blocks of the text that others have published are held with them.
void PagedCache::share_cached(Sequence& sequence) {
  for (std::size_t g = 0; g < pools_.size(); ++g) {
    Table& table = sequence.tables[g];
    const auto needed = needed_blocks(pools_[g].spec(), block_size_, sequence.n_tokens);
    table.blocks.assign(needed.end, kNoBlock);
    table.window_begin = needed.window_begin;
    all_needed(needed, [&](std::size_t b) {
      if (b >= sequence.path.size()) return true;
      table.blocks[b] = index_.block(sequence.path[b], g);
      if (table.blocks[b] != kNoBlock) pools_[g].acquire(table.blocks[b]);
      return true;
    });
  }
}

bool PagedCache::has_room_for_missing(const Sequence& sequence) const {
  for (std::size_t g = 0; g < pools_.size(); ++g) {
    std::size_t n_missing = 0;
    all_needed(needed_blocks(pools_[g].spec(), block_size_, sequence.n_tokens), [&](std::size_t b) {
      n_missing += sequence.tables[g].blocks[b] == kNoBlock;
      return true;
    });
    if (n_missing > pools_[g].n_available()) return false;
  }
  return true;
}

void PagedCache::take_missing(Sequence& sequence, std::vector<BlockFill>& fills) {
  for (std::size_t g = 0; g < pools_.size(); ++g) {
    auto& blocks = sequence.tables[g].blocks;
    all_needed(needed_blocks(pools_[g].spec(), block_size_, sequence.n_tokens), [&](std::size_t b) {
      if (blocks[b] != kNoBlock) return true;
      blocks[b] = pools_[g].take();
      fills.push_back({b, g, blocks[b]});
      return true;
    });
  }
  // Only now: what a policy's exception leaves behind must not be found.
  for (const BlockFill& fill : fills)
    if (fill.text_block < sequence.path.size())
      pools_[fill.group].publish(fill.block, sequence.path[fill.text_block]);
}

// Into an empty sequence that has room for it, as far as the index has.
void PagedCache::learn_text(Sequence& sequence, const CachedTexts& chain) {
  for (std::size_t b = 0; b < chain.size(); ++b) {
    const auto text = chain.text(b);
    if (text.size() < block_size_) {
      sequence.tail.assign(text.begin(), text.end());
      return;
    }
    const NodeId node = add_node(sequence.tip(), text);
    if (node == kNoNode) {
      sequence.is_text_known = false;
      return;
    }
    index_.hold(node);  // before its parent is let go, and before another node makes room
    index_.let_go(sequence.tip());
    sequence.path.push_back(node);
  }
}

// From the tail backwards, as a trim would want them back. Into free blocks only.
void PagedCache::cache_outside_windows(const Sequence& sequence, const CachedTexts& chain,
                                       std::vector<BlockFill>& fills) {
  for (std::size_t g = 0; g < pools_.size(); ++g)
    for (std::size_t b = sequence.path.size(); b-- > 0 && pools_[g].n_free() > 0;) {
      const NodeId node = sequence.path[b];
      if (chain.block(b, g) == kNoBlock || index_.block(node, g) != kNoBlock) continue;
      const BlockId block = pools_[g].take();
      pools_[g].publish(block, node);
      pools_[g].drop(block);
      fills.push_back({b, g, block});
    }
}

Restored PagedCache::restore(const CachedTexts& chain, std::size_t max_tokens) {
  check_restorable(chain);
  if (chain.n_tokens() > max_tokens) return {{false, "sequence_full"}, SequenceId{-1}, {}};
  std::vector<BlockFill> fills;
  fills.reserve(chain.size() * pools_.size());
  Sequence fresh;
  fresh.max_tokens = max_tokens;
  fresh.tables.resize(pools_.size());
  const SequenceId id = open(std::move(fresh), chain.size());
  Sequence& sequence = live(id);
  index_.hold(sequence.tip());
  try {
    if (reuse_prefixes_) learn_text(sequence, chain);
    sequence.n_tokens = sequence.n_writable = chain.n_tokens();
    share_cached(sequence);
    if (has_room_for_missing(sequence)) {
      take_missing(sequence, fills);
      cache_outside_windows(sequence, chain, fills);
      publish_stats();
      return {{true, ""}, id, std::move(fills)};
    }
  } catch (...) {  // an eviction policy may throw
    release(id);
    throw;
  }
  release(id);
  return {{false, "no_free_blocks"}, SequenceId{-1}, {}};
}

}  // namespace quarrel
