// A naive twin of the KV cache: it stores what every token's K and V would be and drives a cache
// through moves that bytes choose. Shared by the native tests, the tests of the tests and the
// fuzzer.
#pragma once

#include <algorithm>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <stdexcept>
#include <string>
#include <vector>

#include "cache/contiguous_cache.h"
#include "cache/kv_cache.h"
#include "cache/paged_cache.h"
#include "cache/sliding_window_cache.h"
#include "cache/snapshot.h"
#include "twin_store.h"

namespace quarrel::testing {

struct Mismatch : std::runtime_error {
  using std::runtime_error::runtime_error;
};

inline void require(bool holds, const char* what) {
  if (!holds) throw Mismatch(what);
}

// Bytes as a source of decisions; once they have run out every decision is 0.
class Choices {
 public:
  explicit Choices(std::span<const std::uint8_t> bytes) : bytes_(bytes) {}
  bool done() const { return bytes_.empty(); }
  std::size_t below(std::size_t n) { return n == 0 ? 0 : next() % n; }

 private:
  std::size_t next() {
    if (bytes_.empty()) return 0;
    const std::size_t byte = bytes_.front();
    bytes_ = bytes_.subspan(1);
    return byte;
  }
  std::span<const std::uint8_t> bytes_;
};

inline std::vector<std::uint8_t> random_bytes(std::uint64_t seed, std::size_t n) {
  std::vector<std::uint8_t> bytes(n);
  std::uint64_t state = seed * 0x9e3779b97f4a7c15u + 1;
  for (auto& byte : bytes) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    byte = static_cast<std::uint8_t>(state >> 56);
  }
  return bytes;
}

class CacheTwin {
 public:
  CacheTwin(KVCache& cache, const std::vector<std::size_t>& n_blocks, bool check_invariants = true)
      : cache_(&cache), checks_invariants_(check_invariants) {
    for (const std::size_t n : n_blocks) memory_.emplace_back(n * cache.block_size(), 0);
    store_.set_block_size(cache.block_size());
  }

  // Lets moves continue with a new cache, as after a restart.
  void allow_restarts(std::function<std::unique_ptr<KVCache>()> make) { make_ = std::move(make); }

  void move(Choices& choices) {
    switch (choices.below(16)) {
      case 0:
      case 1:
        open(choices);
        break;
      case 2:
      case 3:
      case 4:
        step(choices);
        break;
      case 5:
        batch(choices);
        break;
      case 6:
        fail_step(choices);
        break;
      case 7:
        fork(choices);
        break;
      case 8:
      case 9:
        trim(choices);
        break;
      case 10:
        reserve_only(choices);
        break;
      case 11:
        snapshot(choices);
        break;
      case 12:
        restore(choices);
        break;
      case 13:
        preempt(choices);
        break;
      case 14:
        save_and_load(choices);
        break;
      default:
        release(choices);
        break;
    }
    check();
  }

  void release_all() {
    drop_all();
    require(cache_->stats().n_used_blocks == 0, "blocks are used though nobody is left");
    require(cache_->stats().n_sequences == 0, "sequences are counted though nobody is left");
  }

  std::size_t n_hit_tokens() const { return n_hit_tokens_; }
  std::size_t n_evicted() const { return n_evicted_ + cache_->stats().n_evicted_blocks; }
  std::size_t n_restored() const { return n_restored_; }
  std::size_t n_loaded_blocks() const { return n_loaded_blocks_; }

 private:
  using Content = std::uint64_t;  // stands for K and V, which depend on all tokens so far
  struct Sequence {
    SequenceId id;
    std::size_t max_tokens;
    std::vector<TokenId> tokens;
    std::vector<Content> contents;
  };

  static Content content(Content before, TokenId token) {
    return (before + static_cast<Content>(token) + 1) * 0xd6e8feb86659fd93u ^ (before >> 29);
  }

  static void append(Sequence& s, TokenId token) {
    s.contents.push_back(content(s.contents.empty() ? 7 : s.contents.back(), token));
    s.tokens.push_back(token);
  }

  // Few different tokens, so that texts often share beginnings and blocks repeat.
  static std::vector<TokenId> text(Choices& choices, std::size_t n) {
    std::vector<TokenId> tokens(n);
    for (auto& token : tokens) token = static_cast<TokenId>(choices.below(8) == 0);
    return tokens;
  }

  Sequence* pick(Choices& choices) {
    return sequences_.empty() ? nullptr : &sequences_[choices.below(sequences_.size())];
  }

  void open(Choices& choices) {
    std::vector<TokenId> prompt;
    if (!history_.empty() && choices.below(4) != 0) {
      prompt = history_[choices.below(history_.size())];
      prompt.resize(std::min(prompt.size(), choices.below(256)));
    }
    const auto rest = text(choices, 1 + choices.below(3 * cache_->block_size()));
    prompt.insert(prompt.end(), rest.begin(), rest.end());
    const std::size_t max_tokens = prompt.size() + choices.below(6 * cache_->block_size());
    const PrefixMatch match = cache_->match_prefix(prompt, max_tokens);
    require(match.n_tokens < prompt.size(), "a match leaves nothing to compute");
    n_hit_tokens_ += match.n_tokens;
    sequences_.push_back({match.sequence, max_tokens, {}, {}});
    for (std::size_t i = 0; i < match.n_tokens; ++i) append(sequences_.back(), prompt[i]);
    check();
    const auto left = std::span(prompt).subspan(match.n_tokens);
    if (reserve(sequences_.back(), left.size())) compute({{&sequences_.back(), left}}, true);
  }

  void step(Choices& choices) {
    Sequence* s = pick(choices);
    if (s == nullptr) return;
    const auto tokens = text(choices, 1 + choices.below(3 * cache_->block_size()));
    if (reserve(*s, tokens.size())) compute({{s, tokens}}, true);
  }

  // Room is made for all before anything is computed, as a scheduler does.
  void batch(Choices& choices) {
    std::vector<std::vector<TokenId>> texts;
    std::vector<Part> parts;
    texts.reserve(sequences_.size());
    for (auto& s : sequences_) {
      texts.push_back(text(choices, 1 + choices.below(cache_->block_size())));
      if (reserve(s, texts.back().size())) parts.push_back({&s, texts.back()});
    }
    compute(parts, true);
  }

  // The step wrote its slots and then failed: nothing of it may be seen.
  void fail_step(Choices& choices) {
    Sequence* s = pick(choices);
    if (s == nullptr) return;
    const auto tokens = text(choices, 1 + choices.below(2 * cache_->block_size()));
    if (reserve(*s, tokens.size())) compute({{s, tokens}}, false);
  }

  void reserve_only(Choices& choices) {
    if (Sequence* s = pick(choices)) reserve(*s, choices.below(3 * cache_->block_size()));
  }

  void fork(Choices& choices) {
    Sequence* parent = pick(choices);
    if (parent == nullptr || sequences_.size() > 12) return;
    const Fork fork = cache_->fork(parent->id);
    if (!fork.reservation.ok) return;
    Sequence child = *parent;
    child.id = fork.sequence;
    sequences_.push_back(std::move(child));
  }

  void trim(Choices& choices) {
    Sequence* s = pick(choices);
    if (s == nullptr) return;
    const std::size_t n = s->tokens.size() - std::min(s->tokens.size(), choices.below(24));
    const std::size_t held = cache_->trim(s->id, n);
    require(held <= n, "trim kept too much");
    s->tokens.resize(held);
    s->contents.resize(held);
  }

  void release(Choices& choices) {
    if (!sequences_.empty()) release_at(choices.below(sequences_.size()));
  }

  void release_at(std::size_t index) {
    cache_->release(sequences_[index].id);
    history_.push_back(std::move(sequences_[index].tokens));
    if (history_.size() > 16) history_.erase(history_.begin());
    sequences_.erase(sequences_.begin() + static_cast<std::ptrdiff_t>(index));
  }

  bool reserve(Sequence& s, std::size_t n) {
    const CacheStats before = cache_->stats();
    const Reservation reservation = cache_->reserve(s.id, n);
    const bool full = s.tokens.size() + n > s.max_tokens;
    require(reservation.ok == reservation.reason.empty(), "a refusal has no reason");
    require(full == (reservation.reason == "sequence_full"), "a wrong reason");
    if (!reservation.ok)
      require(cache_->stats().n_used_blocks == before.n_used_blocks, "a refusal took blocks");
    return reservation.ok;
  }

  struct Part {
    Sequence* sequence;
    std::span<const TokenId> tokens;
  };

  void compute(const std::vector<Part>& parts, bool succeeds) {
    collect_copies();
    apply_copies(memory_);
    pending_.clear();
    for (const auto& part : parts) write(part, succeeds);
    if (!succeeds) return;
    for (const auto& part : parts) {
      cache_->commit(part.sequence->id, part.tokens);
      for (const TokenId token : part.tokens) append(*part.sequence, token);
    }
  }

  void write(const Part& part, bool succeeds) {
    Sequence after = *part.sequence;
    const SequenceView view = cache_->view(after.id);
    for (const TokenId token : part.tokens) {
      append(after, token);
      const LogicalPosition position{after.tokens.size() - 1};
      for (std::size_t g = 0; g < memory_.size(); ++g) {
        const PhysicalSlot slot = slot_of(view.block_tables[g], cache_->block_size(), position);
        require(slot != kNoSlot, "a reserved position has no slot");
        memory_[g].at(static_cast<std::size_t>(slot)) = succeeds ? after.contents.back() : 1;
      }
    }
  }

  void collect_copies() {
    const auto copies = cache_->take_copies();
    pending_.insert(pending_.end(), copies.begin(), copies.end());
  }

  void apply_copies(std::vector<std::vector<Content>>& memory) const {
    const auto size = static_cast<std::ptrdiff_t>(cache_->block_size());
    for (const BlockCopy& copy : pending_)
      std::copy_n(memory[copy.group].begin() + copy.from * size, size,
                  memory[copy.group].begin() + copy.to * size);
  }

  // ---- Saving and restoring ----

  struct Saved {
    SequenceSnapshot snapshot;
    Sequence sequence;
  };

  Saved saved(const Sequence& s, bool whole = false) {
    do_copies();
    return {SequenceSnapshot(*cache_, store_, s.id, s.tokens, *ledger_, whole), s};
  }

  void snapshot(Choices& choices) {
    const Sequence* s = pick(choices);
    if (s == nullptr) return;
    if (saved_.size() == 3) saved_.erase(saved_.begin());
    saved_.push_back(saved(*s, choices.below(2) == 0));
  }

  void restore(Choices& choices) {
    if (!saved_.empty() && sequences_.size() < 12) restore(saved_[choices.below(saved_.size())]);
  }

  void restore(const Saved& saved) {
    do_copies();
    const CacheStats before = cache_->stats();
    const Restored restored = saved.snapshot.restore(*cache_, store_, saved.sequence.max_tokens);
    if (!restored.reservation.ok) {
      require(restored.reservation.reason == "no_free_blocks", "a wrong reason");
      require(cache_->stats().n_used_blocks == before.n_used_blocks, "a refusal took blocks");
      return;
    }
    ++n_restored_;
    sequences_.push_back(saved.sequence);
    sequences_.back().id = restored.sequence;
  }

  // Its blocks go elsewhere and come back.
  void preempt(Choices& choices) {
    if (sequences_.empty()) return;
    const std::size_t index = choices.below(sequences_.size());
    const Saved copy = saved(sequences_[index]);
    release_at(index);
    check();
    if (choices.below(2) == 0) step(choices);
    restore(copy);
  }

  // Through a file, into the cache itself or into a new one.
  void save_and_load(Choices& choices) {
    const bool restarts = make_ != nullptr && choices.below(2) == 0;
    if (restarts) drop_all();
    do_copies();
    const SnapshotIdentity identity{{"model", "twin"}};
    std::vector<std::byte> file;
    save_prefix_cache([&](auto bytes) { file.insert(file.end(), bytes.begin(), bytes.end()); },
                      *cache_, store_, identity);
    const std::size_t n_used = cache_->stats().n_used_blocks;
    if (restarts) {
      n_evicted_ += cache_->stats().n_evicted_blocks;
      owned_ = make_();
      cache_ = owned_.get();
      for (auto& slots : memory_) std::ranges::fill(slots, 3);
    }
    const auto taken =
        load_prefix_cache(std::make_unique<MemorySource>(file), *cache_, store_, identity);
    n_loaded_blocks_ += taken.n_blocks;
    const CacheStats after = cache_->stats();
    require(after.n_used_blocks == n_used, "loading changed what sequences hold");
    require(!restarts || after.n_cached_blocks == taken.n_blocks, "taken blocks are not cached");
  }

  void drop_all() {
    while (!sequences_.empty()) release_at(0);
    check();
  }

  void do_copies() {
    collect_copies();
    apply_copies(memory_);
    pending_.clear();
  }

  void check() {
    if (checks_invariants_) cache_->check_invariants();
    collect_copies();
    auto memory = memory_;
    apply_copies(memory);
    for (const auto& s : sequences_) check_contents(s, memory);
    const CacheStats stats = cache_->stats();
    require(stats.n_sequences == sequences_.size(), "sequences are miscounted");
    require(stats.n_used_blocks + stats.n_cached_blocks <= stats.n_blocks, "too many blocks");
    std::size_t n_missed = 0;
    for (const std::size_t n : stats.n_missed_tokens) n_missed += n;
    require(stats.n_prefix_hit_tokens + n_missed == stats.n_prefix_queries_tokens,
            "hits and misses are not the queries");
  }

  void check_contents(const Sequence& s, const std::vector<std::vector<Content>>& memory) const {
    const SequenceView view = cache_->view(s.id);
    require(view.n_tokens == s.tokens.size(), "tokens are miscounted");
    for (std::size_t g = 0; g < memory.size(); ++g) {
      const GroupSpec spec = cache_->group_spec(g);
      for (std::size_t p = 0; p < s.tokens.size(); ++p) {
        const bool seen = spec.window == 0 || s.tokens.size() - p < spec.window || p < spec.sinks;
        if (!seen) continue;
        const PhysicalSlot slot =
            slot_of(view.block_tables[g], cache_->block_size(), LogicalPosition{p});
        require(slot != kNoSlot, "a visible position has no slot");
        require(memory[g].at(static_cast<std::size_t>(slot)) == s.contents[p],
                "a slot holds another text's K and V");
      }
    }
  }

  KVCache* cache_;
  const bool checks_invariants_;
  std::vector<std::vector<Content>> memory_;  // [n_groups][slots]
  TwinStore store_{memory_};
  std::vector<Saved> saved_;
  std::shared_ptr<MemoryLedger> ledger_ = MemoryLedger::create(std::size_t{1} << 26);
  std::function<std::unique_ptr<KVCache>()> make_;
  std::unique_ptr<KVCache> owned_;
  std::vector<BlockCopy> pending_;
  std::vector<Sequence> sequences_;
  std::vector<std::vector<TokenId>> history_;  // texts of released sequences
  std::size_t n_hit_tokens_ = 0;
  std::size_t n_evicted_ = 0;  // by caches before the present one
  std::size_t n_restored_ = 0;
  std::size_t n_loaded_blocks_ = 0;
};

// The caches that the tests drive: every strategy, hybrid models, tiny pools, forced collisions.
struct Driven {
  std::string name;
  std::unique_ptr<KVCache> cache;
  std::vector<std::size_t> n_blocks;  // [n_groups]
};

inline PagedConfig paged_config(std::vector<GroupSpec> groups, std::size_t block_size,
                                std::vector<std::size_t> n_blocks, const char* policy = "lru",
                                bool reuse = true, int hash_bits = 64) {
  PagedConfig config;
  config.groups = std::move(groups);
  config.block_size = block_size;
  config.n_blocks = std::move(n_blocks);
  config.reuse_prefixes = reuse;
  config.fingerprint = 1;
  config.hash_bits = hash_bits;
  for (const std::size_t n : config.n_blocks)
    config.policies.push_back(make_eviction_policy(policy, n));
  return config;
}

inline constexpr std::size_t kDriven = 11;

inline Driven driven(std::size_t index) {
  const auto paged = [](std::string name, PagedConfig config) {
    auto n_blocks = config.n_blocks;
    return Driven{std::move(name), std::make_unique<PagedCache>(std::move(config)), n_blocks};
  };
  const auto sliding = [](std::string name, PagedConfig config, std::size_t window,
                          std::size_t sinks) {
    auto n_blocks = config.n_blocks;
    return Driven{std::move(name),
                  std::make_unique<SlidingWindowCache>(std::move(config), window, sinks), n_blocks};
  };
  switch (index) {
    case 0:
      return {"contiguous", std::make_unique<ContiguousCache>(2, 4, 40, true), {40, 40}};
    case 1:
      return {"contiguous cold", std::make_unique<ContiguousCache>(1, 4, 40, false), {40}};
    case 2:
      return paged("paged", paged_config({{}}, 4, {40}));
    case 3:
      return paged("paged tiny", paged_config({{}}, 1, {24}, "fifo"));
    case 4:
      return paged("paged cold", paged_config({{}}, 8, {16}, "lru", false));
    case 5:
      return paged("paged collisions", paged_config({{}}, 4, {40}, "lfu", true, 0));
    case 6:
      return paged("hybrid", paged_config({{9, 0}, {}}, 4, {24, 48}));
    case 7:
      return paged("hybrid lfu", paged_config({{}, {5, 0}, {1, 0}}, 4, {40, 30, 20}, "lfu"));
    case 8:
      return sliding("sliding", paged_config({{}}, 4, {24}), 10, 3);
    case 9:
      return sliding("sliding hybrid", paged_config({{6, 0}, {}}, 4, {20, 24}), 13, 5);
    default:
      return sliding("sliding cold", paged_config({{}}, 4, {12}, "lru", false), 7, 1);
  }
}

}  // namespace quarrel::testing
