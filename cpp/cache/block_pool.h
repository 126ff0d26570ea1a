// The blocks of one layer group: who holds them, which are free, which are kept for reuse.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "cache/eviction.h"
#include "cache/kv_cache.h"
#include "cache/prefix_index.h"

namespace quarrel {

// A block is used (held by sequences), cached (published, held by none) or free. The most recently
// freed block is handed out first, since its memory is warm; fresh ones go in rising order.
class BlockPool {
 public:
  BlockPool(std::size_t group, const GroupSpec& spec, std::size_t n_blocks,
            std::shared_ptr<EvictionPolicy> policy, PrefixIndex& index, const CacheNotes& notes);

  // A private block with one holder, evicting a cached one if need be; kNoBlock if there is none.
  BlockId take();
  // Frees a cached block; false if there is none.
  bool evict_one();
  void acquire(BlockId block);  // one holder more
  void drop(BlockId block);     // one holder less
  void let_go(BlockId block);   // the same, because it left the holder's window
  // A prefix match takes it: acquire, and counted as a use.
  void reuse(BlockId block);

  // Ties a full block to its text, so that others can share it.
  void publish(BlockId block, NodeId node);
  void unpublish(BlockId block);
  bool published(BlockId block) const { return info(block).node != kNoNode; }

  // When its last holder let go; the latest of all times while somebody holds it.
  std::uint64_t last_use(BlockId block) const {
    return info(block).n_holders > 0 ? ~std::uint64_t{0} : info(block).use.released_at;
  }

  // How many holders may write: none but the only one, and only while nobody can find the block.
  bool exclusive(BlockId block) const {
    return info(block).n_holders == 1 && info(block).node == kNoNode;
  }
  // A sole holder may take a published block back unless cached texts go on after it.
  bool can_unpublish(BlockId block) const;

  const GroupSpec& spec() const { return spec_; }
  std::size_t n_blocks() const { return info_.size(); }
  std::size_t n_free() const { return free_.size(); }
  std::size_t n_cached() const { return n_cached_; }
  std::size_t n_available() const { return free_.size() + n_cached_; }
  std::size_t n_evicted() const { return n_evicted_; }
  const BlockLifetimes& lifetimes() const { return lifetimes_; }

  // Without the policy's.
  static std::size_t n_bytes(std::size_t n_blocks) {
    return n_blocks * (sizeof(Info) + sizeof(BlockId));
  }

  // holders: [n_blocks] how many sequences hold each block. Throws Error.
  void check_invariants(const std::vector<std::uint32_t>& holders) const;

 private:
  struct Info {
    std::uint32_t n_holders = 0;
    bool evictable = false;  // offered to the policy
    NodeId node = kNoNode;
    BlockUse use;
    BlockLifetimes::Clock::time_point taken_at{};
  };

  Info& info(BlockId block) { return info_[static_cast<std::size_t>(block)]; }
  const Info& info(BlockId block) const { return info_[static_cast<std::size_t>(block)]; }
  bool is_leaf(NodeId node) const;
  void offer(BlockId block);
  void withdraw(BlockId block);
  BlockId evict();
  void free(BlockId block);
  void note(CacheEventKind kind, BlockId block) const {
    notes_(kind, static_cast<std::ptrdiff_t>(group_), block);
  }

  const std::size_t group_;
  const GroupSpec spec_;
  std::shared_ptr<EvictionPolicy> policy_;
  PrefixIndex& index_;
  const CacheNotes& notes_;
  std::vector<Info> info_;
  std::vector<BlockId> free_;  // the last is next
  std::size_t n_cached_ = 0;
  std::size_t n_evictable_ = 0;
  std::size_t n_evicted_ = 0;
  BlockLifetimes lifetimes_{};
  std::uint64_t now_ = 0;
};

}  // namespace quarrel
