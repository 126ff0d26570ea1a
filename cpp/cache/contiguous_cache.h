// The baseline strategy: one reserved run of consecutive blocks per sequence.
#pragma once

#include <list>
#include <map>

#include "cache/bookkeeping.h"
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
                  bool reuse_prefixes, const BookkeepingLimits& limits = {});

  // What a cache of this size charges to the ledger, texts of all sequences included: a text is
  // never longer than its run. Live sequences without a run are few and small.
  static std::size_t bookkeeping_bytes(std::size_t block_size, std::size_t n_blocks,
                                       std::size_t max_sequences);

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
    BlockLifetimes::Clock::time_point taken_at{};
  };

  Sequence& live(SequenceId id);
  const Sequence& live(SequenceId id) const;
  SequenceId open(Sequence sequence);
  PrefixMatch resume_parked(Sequence& sequence, std::list<Sequence>::iterator parked,
                            std::size_t n_tokens, std::size_t n_usable);
  Reservation give_run(Sequence& sequence);
  std::list<Sequence>::iterator longest_parked(std::span<const TokenId> usable,
                                               std::size_t& n_best);
  Reservation move_to_longer_run(Sequence& sequence);
  Reservation make_room_for_copies(const Sequence& sequence);
  void copy_blocks(std::span<const BlockId> from, const Sequence& to);
  void evict_oldest();
  void note(CacheEventKind kind, const Sequence& sequence) const;
  void free_run(const Sequence& sequence);
  bool is_known(std::span<const TokenId> text) const;
  void adopt_text(const CachedTexts& texts, const std::vector<std::size_t>& path,
                  std::vector<BlockFill>& fills);
  void publish_stats();

  const std::size_t n_groups_;
  const std::size_t block_size_;
  const std::size_t n_blocks_;
  const bool reuse_prefixes_;
  Bookkeeping bookkeeping_;
  FreeRuns free_;
  // Each in a list of its own, which is spliced into parked_: giving memory back takes none.
  std::map<SequenceId, std::list<Sequence>> live_;
  std::list<Sequence> parked_;   // oldest first
  std::list<Sequence> adopted_;  // until settle(), last used first
  std::vector<BlockCopy> copies_;
  std::int64_t next_id_ = 0;
  std::size_t n_parked_blocks_ = 0;  // of one group
  CacheStats counts_{};
  StatsBoard stats_;
};

}  // namespace quarrel
