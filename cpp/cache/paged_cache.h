// Blocks on demand, shared between sequences with a common beginning.
//
// Kwon et al., "Efficient Memory Management for Large Language Model Serving with PagedAttention",
// 2023. Layer groups are served together: room is made in all of them or in none, and a prefix is
// reused as far as every group still holds what it needs.
#pragma once

#include <cstdint>
#include <memory>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "cache/block_pool.h"
#include "cache/bookkeeping.h"
#include "cache/eviction.h"
#include "cache/kv_cache.h"
#include "cache/prefix_index.h"

namespace quarrel {

struct PagedConfig {
  std::vector<GroupSpec> groups;
  std::size_t block_size = 0;         // tokens
  std::vector<std::size_t> n_blocks;  // [n_groups]
  bool reuse_prefixes = true;
  std::uint64_t fingerprint = 0;  // of what K and V depend on beside the tokens
  std::vector<std::shared_ptr<EvictionPolicy>> policies;  // [n_groups]
  int hash_bits = 64;                                     // fewer force collisions, for tests
  // The most tokens of a sequence that one step computes: groups with a window reserve no more
  // ahead, so that a long prompt need not fit in them. 0: any number.
  std::size_t max_step_tokens = 0;
  BookkeepingLimits limits;
};

class PagedCache : public KVCache {
 public:
  explicit PagedCache(PagedConfig config);

  // What a cache like this charges to the ledger when it is made; config.policies may be empty, and
  // then native ones are assumed.
  static std::size_t bookkeeping_bytes(const PagedConfig& config);

  std::string_view strategy() const override { return "paged"; }
  std::size_t block_size() const override { return block_size_; }
  std::size_t n_groups() const override { return pools_.size(); }
  GroupSpec group_spec(std::size_t group) const override { return pools_[group].spec(); }
  PrefixMatch match_prefix(std::span<const TokenId> prompt, std::size_t max_tokens) override;
  Reservation reserve(SequenceId sequence, std::size_t n_tokens) override;
  void commit(SequenceId sequence, std::span<const TokenId> tokens) override;
  Fork fork(SequenceId sequence) override;
  std::size_t trim(SequenceId sequence, std::size_t n_tokens) override;
  void release(SequenceId sequence) override;
  SequenceView view(SequenceId sequence) const override;
  std::vector<BlockCopy> take_copies() override;
  CachedTexts cached_texts() const override;
  std::vector<BlockFill> adopt(const CachedTexts& texts) override;
  void settle(bool filled) override;
  Restored restore(const CachedTexts& chain, std::size_t max_tokens) override;
  CacheStats stats() const override { return stats_.read(); }
  void check_invariants() const override;

 private:
  struct Table {
    std::vector<BlockId> blocks;   // kNoBlock where the window let go
    std::size_t window_begin = 0;  // first block of the window; sinks lie before it
  };
  struct Sequence {
    std::size_t n_tokens = 0;
    std::size_t max_tokens = 0;
    std::size_t n_writable = 0;  // commit may go up to here
    std::vector<NodeId> path;    // [full blocks], when prefixes are reused
    std::vector<TokenId> tail;   // the tokens after the last full block, likewise
    // Whether path and tail tell the whole text. They stop where the index was full: the blocks
    // after that are not published.
    bool is_text_known = true;
    std::vector<Table> tables;  // [n_groups]
    std::size_t n_entries = 0;  // of path and tables, for which there is room
    Bookkeeping::Share memory;

    NodeId tip() const { return path.empty() ? kRootNode : path.back(); }
  };

  Sequence& live(SequenceId id);
  const Sequence& live(SequenceId id) const;
  SequenceId open(Sequence sequence, std::size_t min_entries = 0);
  void make_entries(Sequence& sequence, std::size_t n_entries);
  static std::size_t fixed_bytes(const PagedConfig& config);
  static std::size_t reserved_bytes(const PagedConfig& config);
  static std::size_t sequence_bytes(const PagedConfig& config, std::size_t n_entries);
  static std::size_t index_capacity(const PagedConfig& config);
  void publish_stats();

  std::vector<NodeId> cached_path(std::span<const TokenId> usable) const;
  std::size_t longest_held(const std::vector<NodeId>& path) const;
  bool all_hold(const std::vector<NodeId>& path, std::size_t n_blocks) const;
  std::string_view why_lost(const std::vector<NodeId>& path, std::size_t n_held) const;
  std::string_view why_unknown(NodeId last, std::span<const TokenId> next) const;
  std::string_view why_no_longer(const std::vector<NodeId>& known, std::size_t n_held,
                                 std::span<const TokenId> usable) const;
  void adopt(Sequence& sequence, std::span<const NodeId> path);

  bool needs_copy(const Sequence& sequence, std::size_t group) const;
  std::size_t reserved_end(const Sequence& sequence, std::size_t group, std::size_t n_tokens) const;
  bool has_room(const Sequence& sequence, std::size_t n_tokens) const;
  void make_private(Sequence& sequence, std::size_t group);
  void publish_tail(Sequence& sequence);
  NodeId add_node(NodeId parent, std::span<const TokenId> tokens);
  void let_go_outside(Sequence& sequence);
  Sequence twin_of(const Sequence& parent) const;
  bool can_resume(const Sequence& sequence, std::size_t n_tokens) const;
  void cut_table(Sequence& sequence, std::size_t group, std::size_t n_tokens);
  void cut_text(Sequence& sequence, std::size_t n_tokens);

  // paged_snapshot.cpp
  std::vector<std::uint64_t> last_uses() const;
  std::vector<NodeId> in_order_of_use() const;
  bool worth_adopting(const CachedTexts& texts, std::size_t at, NodeId known) const;
  bool adopt_block(const CachedTexts& texts, std::size_t at, NodeId node,
                   std::vector<BlockFill>& fills);
  void check_restorable(const CachedTexts& chain) const;
  void share_cached(Sequence& sequence);
  bool has_room_for_missing(const Sequence& sequence) const;
  void cache_outside_windows(const Sequence& sequence, const CachedTexts& chain,
                             std::vector<BlockFill>& fills);
  void take_missing(Sequence& sequence, std::vector<BlockFill>& fills);
  void learn_text(Sequence& sequence, const CachedTexts& chain);

  void check_sequence(const Sequence& sequence) const;

  // What adopt() holds until settle(), parents first.
  struct Adopted {
    std::size_t group;
    BlockId block;
    bool fresh;  // of this adoption; else it was there before
  };

  const PagedConfig config_;  // without policies
  const std::size_t block_size_;
  const bool reuse_prefixes_;
  std::size_t most_entries_;  // that a new sequence gets at once
  const std::size_t fixed_bytes_;
  Bookkeeping bookkeeping_;
  PrefixIndex index_;
  std::vector<BlockPool> pools_;  // [n_groups]
  std::unordered_map<SequenceId, Sequence> live_;
  std::vector<BlockCopy> copies_;
  std::vector<Adopted> adopted_blocks_;
  std::vector<NodeId> adopted_nodes_;
  std::int64_t next_id_ = 0;
  CacheStats counts_{};  // what is not counted in a pool
  StatsBoard stats_;
};

}  // namespace quarrel
