// The baseline strategy: one reserved run of consecutive blocks per sequence.
#pragma once

#include <list>
#include <map>

#include "cache/free_runs.h"
#include "cache/kv_cache.h"

namespace quarrel {

// Every layer group keeps every token, so one run of block ids serves all of them. A released
// sequence stays parked until its run is needed; a prompt that starts with a parked text takes the
// run over (a chat's next turn, for one), and its blocks are copied where the run is too short.
// Parked runs are given up oldest first.
class ContiguousCache final : public KVCache {
 public:
  ContiguousCache(std::size_t n_groups, std::size_t block_size, std::size_t n_blocks,
                  bool reuse_prefixes);

  std::string_view strategy() const override { return "contiguous"; }
  std::size_t block_size() const override { return block_size_; }
  std::size_t n_groups() const override { return n_groups_; }
  GroupSpec group_spec(std::size_t) const override { return {}; }
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
  struct Sequence {
    std::vector<TokenId> tokens;  // committed
    std::size_t max_tokens;
    std::vector<BlockId> blocks;  // consecutive; empty until the first reserve
    BlockLifetimes::Clock::time_point taken_at;
  };

  Sequence& live(SequenceId id);
  const Sequence& live(SequenceId id) const;
  SequenceId open(Sequence sequence);
  bool give_run(Sequence& sequence);
  std::list<Sequence>::iterator longest_parked(std::span<const TokenId> usable,
                                               std::size_t& n_best);
  bool move_to_longer_run(Sequence& sequence);
  void copy_blocks(const Sequence& from, const Sequence& to);
  void evict_oldest();
  void free_run(const Sequence& sequence);
  bool is_known(std::span<const TokenId> text) const;
  void publish_stats();

  const std::size_t n_groups_;
  const std::size_t block_size_;
  const std::size_t n_blocks_;
  const bool reuse_prefixes_;
  FreeRuns free_;
  std::map<SequenceId, Sequence> live_;
  std::list<Sequence> parked_;     // oldest first
  std::vector<Sequence> adopted_;  // until settle(), last used first
  std::vector<BlockCopy> copies_;
  std::int64_t next_id_ = 0;
  std::size_t n_parked_blocks_ = 0;  // of one group
  CacheStats counts_{};
  StatsBoard stats_;
};

}  // namespace quarrel
