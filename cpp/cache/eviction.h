// Which cached block goes first when room is needed. One policy object serves one layer group.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string_view>
#include <vector>

#include "cache/block_table.h"

namespace quarrel {

// What is known of a block. Times are counts of events in its group.
struct BlockUse {
  std::uint64_t published_at = 0;  // when it became shareable
  std::uint64_t released_at = 0;   // when its last holder let go; the tail of a sequence first
  std::uint64_t n_uses = 0;        // how often a prefix match has taken it
};

// The cache offers a block when nobody holds it and, in a group that keeps everything, when no
// cached block follows it: so a text is always evicted from its tail, whatever the policy.
class EvictionPolicy {
 public:
  virtual ~EvictionPolicy() = default;
  virtual std::string_view name() const = 0;
  virtual void insert(BlockId block, const BlockUse& use) = 0;
  // The block was chosen, or is in use again.
  virtual void erase(BlockId block) = 0;
  // One of the inserted blocks; called only when there is one. erase() follows.
  virtual BlockId victim() = 0;
  // What it takes, for the ledger; 0 where that is not known.
  virtual std::size_t n_bytes() const { return 0; }
};

// What a native policy takes for a layer group.
std::size_t eviction_policy_bytes(std::size_t n_blocks);
// name: "lru", "lfu" (ties by lru) or "fifo" (by the time of publishing). InvalidArgument if it is
// none of these.
std::shared_ptr<EvictionPolicy> make_eviction_policy(std::string_view name, std::size_t n_blocks);

}  // namespace quarrel
