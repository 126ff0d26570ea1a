#include "cache/block_pool.h"

#include <algorithm>
#include <string>
#include <utility>

#include "core/error.h"

namespace quarrel {
namespace {

[[noreturn]] void broken(const std::string& what) {
  throw Error("[block_pool] invariant broken: " + what);
}

}  // namespace

BlockPool::BlockPool(std::size_t group, const GroupSpec& spec, std::size_t n_blocks,
                     std::shared_ptr<EvictionPolicy> policy, PrefixIndex& index,
                     const CacheNotes& notes)
    : group_(group),
      spec_(spec),
      policy_(std::move(policy)),
      index_(index),
      notes_(notes),
      info_(n_blocks) {
  free_.reserve(n_blocks);
  for (std::size_t i = n_blocks; i > 0; --i) free_.push_back(static_cast<BlockId>(i - 1));
}

BlockId BlockPool::take() {
  if (free_.empty() && n_evictable_ == 0) return kNoBlock;
  const BlockId block = free_.empty() ? evict() : free_.back();
  free_.pop_back();
  info(block).n_holders = 1;
  info(block).taken_at = BlockLifetimes::Clock::now();
  note(CacheEventKind::Allocate, block);
  return block;
}

void BlockPool::free(BlockId block) {
  lifetimes_.record(info(block).taken_at, 1);
  free_.push_back(block);
}

bool BlockPool::evict_one() {
  if (n_evictable_ == 0) return false;
  evict();
  return true;
}

// Leaves the block on the free list.
BlockId BlockPool::evict() {
  const BlockId block = policy_->victim();
  if (block < 0 || static_cast<std::size_t>(block) >= info_.size() || !info(block).evictable)
    throw InvalidArgument("[eviction] expected the policy " + std::string(policy_->name()) +
                          " to choose a block it was given and not since told to erase, got " +
                          std::to_string(block));
  ++n_evicted_;
  note(CacheEventKind::Evict, block);
  withdraw(block);
  --n_cached_;
  unpublish(block);
  free(block);
  return block;
}

void BlockPool::acquire(BlockId block) {
  Info& i = info(block);
  if (i.n_holders == 0) {
    if (i.evictable) withdraw(block);
    --n_cached_;
  }
  ++i.n_holders;
}

void BlockPool::reuse(BlockId block) {
  acquire(block);
  ++info(block).use.n_uses;
}

void BlockPool::drop(BlockId block) {
  Info& i = info(block);
  if (--i.n_holders > 0) return;
  if (i.node == kNoNode) {
    note(CacheEventKind::Free, block);
    free(block);
    return;
  }
  i.use.released_at = ++now_;
  ++n_cached_;
  if (is_leaf(i.node)) offer(block);
}

void BlockPool::let_go(BlockId block) {
  note(CacheEventKind::LetGo, block);
  drop(block);
}

// A group that keeps everything cannot use a text without its beginning, so blocks go from the
// tail; a windowed group can.
bool BlockPool::is_leaf(NodeId node) const {
  return spec_.window != 0 || index_.n_held_children(node, group_) == 0;
}

void BlockPool::offer(BlockId block) {
  info(block).evictable = true;
  ++n_evictable_;
  policy_->insert(block, info(block).use);
}

void BlockPool::withdraw(BlockId block) {
  info(block).evictable = false;
  --n_evictable_;
  policy_->erase(block);
}

void BlockPool::publish(BlockId block, NodeId node) {
  Info& i = info(block);
  i.node = node;
  i.use = {++now_, 0, 0};
  index_.set_block(node, group_, block);
  note(CacheEventKind::Publish, block);
}

void BlockPool::unpublish(BlockId block) {
  const NodeId node = std::exchange(info(block).node, kNoNode);
  const NodeId parent = index_.parent(node);
  const BlockId before = parent == kRootNode ? kNoBlock : index_.block(parent, group_);
  index_.clear_block(node, group_);
  if (before == kNoBlock) return;
  const Info& i = info(before);
  if (i.n_holders == 0 && !i.evictable && is_leaf(i.node)) offer(before);
}

bool BlockPool::can_unpublish(BlockId block) const {
  const Info& i = info(block);
  return i.n_holders == 1 && is_leaf(i.node);
}

void BlockPool::check_invariants(const std::vector<std::uint32_t>& holders) const {
  std::vector<bool> free(info_.size(), false);
  for (const BlockId block : free_) {
    if (free[static_cast<std::size_t>(block)]) broken("a block is free twice");
    free[static_cast<std::size_t>(block)] = true;
  }
  std::size_t n_cached = 0;
  std::size_t n_evictable = 0;
  for (std::size_t b = 0; b < info_.size(); ++b) {
    const Info& i = info_[b];
    if (i.n_holders != holders[b]) broken("a block miscounts its holders");
    const bool cached = i.n_holders == 0 && i.node != kNoNode;
    if (free[b] != (i.n_holders == 0 && !cached)) broken("a free block is not free, or is lost");
    if (i.node != kNoNode && index_.block(i.node, group_) != static_cast<BlockId>(b))
      broken("a published block is not in the index");
    if (i.evictable != (cached && is_leaf(i.node))) broken("a block is wrongly evictable");
    n_cached += cached;
    n_evictable += i.evictable;
  }
  if (n_cached != n_cached_ || n_evictable != n_evictable_) broken("a count is wrong");
  if (n_cached > 0 && n_evictable == 0) broken("cached blocks cannot be evicted");
}

}  // namespace quarrel
