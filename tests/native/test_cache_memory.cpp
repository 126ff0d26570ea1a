// The cache's own memory: what it charges, and what happens when there is none.
#include <doctest/doctest.h>

#include <new>
#include <utility>

#include "cache_twin.h"
#include "core/error.h"
#include "failing_new.h"

namespace quarrel::testing {
namespace {

// A cache in which the n-th allocation of every operation fails, for n = 1, 2, 3, ... until it
// passes. A failure must leave all as it was, so whoever drives it sees a cache that never fails.
class StarvedCache final : public KVCache {
  template <class Operation>
  auto starved(std::size_t n, const Operation& operation) {
    struct Fed {
      StarvedCache& self;
      ~Fed() {
        self.n_failures_ += allocation_failed();
        fail_allocation(0);
      }
    };
    {
      const Fed fed{*this};
      fail_allocation(n);
      return operation();
    }
  }

 public:
  StarvedCache(KVCache& cache, std::size_t& n_failures) : cache_(cache), n_failures_(n_failures) {}

  std::string_view strategy() const override { return cache_.strategy(); }
  std::size_t block_size() const override { return cache_.block_size(); }
  std::size_t n_groups() const override { return cache_.n_groups(); }
  GroupSpec group_spec(std::size_t group) const override { return cache_.group_spec(group); }
  SequenceView view(SequenceId id) const override { return cache_.view(id); }
  CacheStats stats() const override { return cache_.stats(); }
  void check_invariants() const override { cache_.check_invariants(); }

  PrefixMatch match_prefix(std::span<const TokenId> prompt, std::size_t max_tokens) override {
    for (std::size_t n = 1;; ++n) {
      const CacheStats before = cache_.stats();
      try {
        return starved(n, [&] { return cache_.match_prefix(prompt, max_tokens); });
      } catch (const std::bad_alloc&) {
        require(cache_.stats().n_sequences == before.n_sequences, "a failed match left a sequence");
        require(cache_.stats().n_used_blocks == before.n_used_blocks, "a failed match took blocks");
      }
    }
  }
  Reservation reserve(SequenceId id, std::size_t n_tokens) override {
    for (std::size_t n = 1;; ++n) {
      auto room = starved(n, [&] { return cache_.reserve(id, n_tokens); });
      if (room.reason != "no_memory") return room;
    }
  }
  Fork fork(SequenceId id) override {
    for (std::size_t n = 1;; ++n) {
      auto fork = starved(n, [&] { return cache_.fork(id); });
      if (fork.reservation.reason != "no_memory") return fork;
    }
  }
  CachedTexts cached_texts() const override { return cache_.cached_texts(); }
  std::vector<BlockFill> adopt(const CachedTexts& texts) override {
    for (std::size_t n = 1;; ++n) {
      try {
        return starved(n, [&] { return cache_.adopt(texts); });
      } catch (const std::bad_alloc&) {
        settle(false);
      }
    }
  }
  Restored restore(const CachedTexts& chain, std::size_t max_tokens) override {
    for (std::size_t n = 1;; ++n) {
      try {
        auto restored = starved(n, [&] { return cache_.restore(chain, max_tokens); });
        if (restored.reservation.reason != "no_memory") return restored;
      } catch (const std::bad_alloc&) {
        cache_.check_invariants();
      }
    }
  }
  // These cannot be refused, so they must not need memory.
  void settle(bool filled) override {
    starved(1, [&] { cache_.settle(filled); });
  }
  void commit(SequenceId id, std::span<const TokenId> tokens) override {
    starved(1, [&] { cache_.commit(id, tokens); });
  }
  std::size_t trim(SequenceId id, std::size_t n_tokens) override {
    return starved(1, [&] { return cache_.trim(id, n_tokens); });
  }
  void release(SequenceId id) override {
    starved(1, [&] { cache_.release(id); });
  }
  std::vector<BlockCopy> take_copies() override {
    return starved(1, [&] { return cache_.take_copies(); });
  }

 private:
  KVCache& cache_;
  std::size_t& n_failures_;
};

PagedConfig accounted(PagedConfig config, std::shared_ptr<MemoryLedger> ledger,
                      std::size_t max_sequences, std::size_t max_tokens) {
  config.limits = {std::move(ledger), max_sequences, max_tokens};
  return config;
}

std::vector<TokenId> tokens_from(TokenId first, std::size_t n) {
  std::vector<TokenId> tokens(n);
  for (auto& token : tokens) token = first++;
  return tokens;
}

}  // namespace

TEST_CASE("whatever allocation fails, a cache refuses or goes on, and loses nothing") {
  for (std::size_t index = 0; index < kDriven; ++index) {
    std::size_t n_failures = 0;
    for (std::uint64_t seed = 0; seed < 3; ++seed) {
      Driven d = driven(index);
      CAPTURE(d.name);
      CAPTURE(seed);
      StarvedCache starved(*d.cache, n_failures);
      const auto bytes = random_bytes(seed + 77, 6000);
      Choices choices(bytes);
      CacheTwin twin(starved, d.n_blocks);
      while (!choices.done()) twin.move(choices);
      twin.release_all();
    }
    CHECK(n_failures > 100);
  }
}

TEST_CASE("paged: the ledger is charged in full when the cache is made, and not again") {
  const auto ledger = MemoryLedger::create(1 << 20);
  const auto config = accounted(paged_config({{}, {8, 0}}, 4, {32, 16}), ledger, 2, 40);
  const std::size_t predicted = PagedCache::bookkeeping_bytes(config);
  {
    PagedCache cache(config);
    CHECK(ledger->used_bytes(MemoryKind::PrefixCache) == predicted);
    const auto a = cache.match_prefix({}, 40).sequence;
    REQUIRE(cache.reserve(a, 30).ok);
    cache.commit(a, tokens_from(0, 30));
    const auto b = cache.fork(a);
    REQUIRE(b.reservation.ok);
    CHECK(ledger->used_bytes() == predicted);
    // One sequence more than was planned is charged for as long as it lives.
    const auto c = cache.match_prefix({}, 40).sequence;
    CHECK(ledger->used_bytes() > predicted);
    cache.check_invariants();
    cache.release(c);
    CHECK(ledger->used_bytes() == predicted);
    cache.release(a);
    cache.release(b.sequence);
    cache.check_invariants();
    CHECK(ledger->used_bytes() == predicted);
  }
  CHECK(ledger->used_bytes() == 0);

  const auto exact = MemoryLedger::create(predicted);
  CHECK_NOTHROW(PagedCache(accounted(config, exact, 2, 40)));
  const auto short_by_one = MemoryLedger::create(predicted - 1);
  CHECK_THROWS_AS(PagedCache(accounted(config, short_by_one, 2, 40)), OutOfMemoryError);
  CHECK(short_by_one->used_bytes() == 0);
}

TEST_CASE("paged: without memory for another sequence a match throws and a fork is refused") {
  const auto ledger = MemoryLedger::create(1 << 20);
  PagedCache cache(accounted(paged_config({{}}, 4, {32}), ledger, 1, 40));
  const auto a = cache.match_prefix({}, 40).sequence;
  REQUIRE(cache.reserve(a, 30).ok);
  cache.commit(a, tokens_from(0, 30));
  const std::size_t idle = ledger->used_bytes();
  ledger->refuse_charge(1);
  CHECK_THROWS_AS(cache.match_prefix({}, 40), OutOfMemoryError);
  ledger->refuse_charge(1);
  CHECK(cache.fork(a).reservation.reason == "no_memory");
  cache.check_invariants();
  CHECK(cache.stats().n_sequences == 1);
  CHECK(ledger->used_bytes() == idle);
  CHECK(cache.fork(a).reservation.ok);
}

TEST_CASE("paged: a sequence that outgrows its tables asks the ledger, and may be refused") {
  const auto ledger = MemoryLedger::create(1 << 20);
  // One windowed group: a text may be longer than the pool.
  PagedCache cache(accounted(paged_config({{8, 0}}, 4, {8}), ledger, 1, 16));
  const auto a = cache.match_prefix({}, 4000).sequence;
  const auto grow = [&](std::size_t n) {
    const Reservation room = cache.reserve(a, n);
    if (room.ok) cache.commit(a, tokens_from(0, n));
    cache.check_invariants();
    return room.reason;
  };
  for (int i = 0; i < 4; ++i) REQUIRE(grow(8) == "");
  ledger->refuse_charge(1);
  CHECK(grow(8) == "no_memory");
  CHECK(grow(8) == "");
  const std::size_t grown = ledger->used_bytes();
  cache.release(a);
  CHECK(ledger->used_bytes() < grown);
}

TEST_CASE("paged: in a full index cached texts make room, and else a text stays unknown") {
  // The index has 4 nodes, one per block; the windows let go of blocks, not of nodes.
  PagedCache cache(paged_config({{4, 0}}, 4, {4}));
  const auto fill = [&](TokenId first, std::size_t n) {
    const auto tokens = tokens_from(first, n);
    const auto match = cache.match_prefix(tokens, 100);
    auto rest = std::span(tokens).subspan(match.n_tokens);
    for (; !rest.empty(); rest = rest.subspan(4)) {
      REQUIRE(cache.reserve(match.sequence, 4).ok);
      cache.commit(match.sequence, rest.first(4));
      cache.check_invariants();
    }
    return match.sequence;
  };
  const auto a = fill(0, 8);
  cache.release(a);
  const auto b = fill(100, 32);  // six blocks more than the index has nodes for
  CHECK(cache.stats().n_evicted_blocks > 0);
  CHECK(cache.match_prefix(tokens_from(0, 9), 9).n_tokens == 0);
  CHECK(cache.trim(b, 30) == 16);  // as far as the text is known
  cache.check_invariants();
  REQUIRE(cache.reserve(b, 4).ok);
  cache.commit(b, tokens_from(116, 4));
  cache.check_invariants();
}

TEST_CASE("paged: a group with a window reserves a step ahead, a group without all of it") {
  auto config = paged_config({{}, {8, 0}}, 4, {32, 6});
  config.max_step_tokens = 8;
  PagedCache cache(config);
  const auto a = cache.match_prefix({}, 100).sequence;
  REQUIRE(cache.reserve(a, 60).ok);  // the second group has six blocks
  CHECK(cache.view(a).block_tables[0].size() == 15);
  CHECK(cache.view(a).block_tables[1].size() == 2);
  CHECK_THROWS_AS(cache.commit(a, tokens_from(0, 9)), InvalidArgument);
  for (TokenId at = 0; at < 56; at += 8) {
    REQUIRE(cache.reserve(a, 8).ok);
    cache.commit(a, tokens_from(at, 8));
    cache.check_invariants();
  }
  CHECK(cache.stats().n_window_blocks > 0);
}

TEST_CASE("contiguous: texts are paid for by their runs") {
  const auto ledger = MemoryLedger::create(1 << 20);
  const std::size_t predicted = ContiguousCache::bookkeeping_bytes(4, 20, 3);
  ContiguousCache cache(1, 4, 20, true, {ledger, 3, 0});
  CHECK(ledger->used_bytes(MemoryKind::PrefixCache) == predicted);
  for (TokenId first = 0; first < 30; ++first) {
    const auto a = cache.match_prefix({}, 8 + static_cast<std::size_t>(first)).sequence;
    REQUIRE(cache.reserve(a, 8).ok);
    cache.commit(a, tokens_from(first, 8));
    cache.release(a);
    cache.check_invariants();
  }
  CHECK(ledger->used_bytes() == predicted);
  CHECK(ledger->peak_bytes() == predicted);
}

}  // namespace quarrel::testing
