// The paged and sliding-window strategies: exact block ids, copies, reasons.
#include <doctest/doctest.h>

#include <mutex>
#include <numeric>
#include <thread>
#include <vector>

#include "cache_twin.h"
#include "core/error.h"
#include "program/step_assembler.h"

namespace quarrel::testing {
namespace {

using Ids = std::vector<BlockId>;
using Tokens = std::vector<TokenId>;

Tokens iota(std::size_t n, TokenId first = 0) {
  Tokens tokens(n);
  std::iota(tokens.begin(), tokens.end(), first);
  return tokens;
}

Ids table(const KVCache& cache, SequenceId id, std::size_t group = 0) {
  const auto view = cache.view(id);
  return {view.block_tables[group].begin(), view.block_tables[group].end()};
}

// Opens a sequence for a text and computes all of it.
SequenceId fill(KVCache& cache, const Tokens& tokens, std::size_t max_tokens = 1000) {
  const PrefixMatch match = cache.match_prefix(tokens, max_tokens);
  const auto rest = std::span(tokens).subspan(match.n_tokens);
  REQUIRE(cache.reserve(match.sequence, rest.size()).ok);
  cache.commit(match.sequence, rest);
  cache.check_invariants();
  return match.sequence;
}

Tokens joined(Tokens a, const Tokens& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}

}  // namespace

TEST_CASE("paged: blocks come on demand, in rising order, the last freed first") {
  PagedCache cache(paged_config({{}}, 4, {6}, "lru", false));
  const auto a = cache.match_prefix(iota(3), 100).sequence;
  CHECK(table(cache, a).empty());
  REQUIRE(cache.reserve(a, 3).ok);
  CHECK(table(cache, a) == Ids{0});
  cache.commit(a, iota(3));
  REQUIRE(cache.reserve(a, 6).ok);
  CHECK(table(cache, a) == Ids{0, 1, 2});
  const auto b = fill(cache, iota(5));
  CHECK(table(cache, b) == Ids{3, 4});
  cache.release(a);
  const auto c = fill(cache, iota(13));
  CHECK(table(cache, c) == Ids{0, 1, 2, 5});
  CHECK(cache.stats().n_used_blocks == 6);
}

TEST_CASE("paged: out of blocks is a value and changes nothing") {
  PagedCache cache(paged_config({{}, {3, 0}}, 4, {2, 8}));
  const auto a = fill(cache, iota(5));
  const auto stats = cache.stats();
  const Reservation refused = cache.reserve(a, 4);  // the first group has no third block
  CHECK_FALSE(refused.ok);
  CHECK(refused.reason == "no_free_blocks");
  CHECK(cache.stats().n_used_blocks == stats.n_used_blocks);
  CHECK(table(cache, a, 0) == Ids{0, 1});
  CHECK(cache.reserve(a, 3).ok);
  const auto b = cache.match_prefix(iota(2), 2).sequence;
  CHECK(cache.reserve(b, 3).reason == "sequence_full");
  cache.check_invariants();
}

TEST_CASE("paged: a fork shares everything and the first writer copies one block") {
  PagedCache cache(paged_config({{}}, 4, {8}));
  const auto a = fill(cache, iota(6));
  const auto fork = cache.fork(a);
  REQUIRE(fork.reservation.ok);
  CHECK(table(cache, fork.sequence) == Ids{0, 1});
  CHECK(cache.stats().n_used_blocks == 2);
  CHECK(cache.take_copies().empty());
  CHECK_THROWS_AS(cache.commit(a, iota(1)), InvalidArgument);  // not reserved since the fork

  REQUIRE(cache.reserve(fork.sequence, 1).ok);
  CHECK(table(cache, fork.sequence) == Ids{0, 2});
  const auto copies = cache.take_copies();
  REQUIRE(copies.size() == 1);
  CHECK(copies[0].from == 1);
  CHECK(copies[0].to == 2);
  REQUIRE(cache.reserve(a, 1).ok);  // sole holder again
  CHECK(table(cache, a) == Ids{0, 1});
  CHECK(cache.take_copies().empty());
  cache.check_invariants();
}

TEST_CASE("paged: a fork at a block's edge copies nothing") {
  PagedCache cache(paged_config({{}}, 4, {8}));
  const auto a = fill(cache, iota(8));
  const auto b = cache.fork(a).sequence;
  REQUIRE(cache.reserve(a, 1).ok);
  REQUIRE(cache.reserve(b, 1).ok);
  CHECK(table(cache, a) == Ids{0, 1, 2});
  CHECK(table(cache, b) == Ids{0, 1, 3});
  CHECK(cache.take_copies().empty());
}

TEST_CASE("paged: full blocks are reused and reasons tell why no more") {
  PagedCache cache(paged_config({{}}, 4, {16}));
  CHECK(cache.match_prefix(iota(9), 20).miss_reason == "empty");
  const auto a = fill(cache, iota(10));
  const auto match = [&](const Tokens& prompt) {
    const auto m = cache.match_prefix(prompt, 100);
    cache.release(m.sequence);
    return std::pair(m.n_tokens, m.miss_reason);
  };
  using Answer = std::pair<std::size_t, std::string>;
  CHECK(match(iota(9)) == Answer{8, "none"});
  CHECK(match(iota(8)) == Answer{4, "partial_block"});  // one token is left to compute
  CHECK(match(iota(11)) == Answer{8, "partial_block"});
  CHECK(match(iota(20)) == Answer{8, "shorter"});
  CHECK(match(joined(iota(4), iota(9, 50))) == Answer{4, "diverged"});
  CHECK(match(iota(9, 1)) == Answer{0, "diverged"});
  CHECK(match({}) == Answer{0, "none"});
  const auto b = fill(cache, iota(9));
  CHECK(table(cache, b) == Ids{table(cache, a)[0], table(cache, a)[1], 3});
}

TEST_CASE("paged: texts computed side by side end up sharing their blocks") {
  PagedCache cache(paged_config({{}}, 4, {8}));
  const auto a = cache.match_prefix(iota(5), 9).sequence;
  const auto b = cache.match_prefix(iota(5), 9).sequence;
  REQUIRE(cache.reserve(a, 5).ok);
  REQUIRE(cache.reserve(b, 5).ok);
  CHECK(table(cache, b) == Ids{2, 3});
  cache.commit(a, iota(5));
  cache.commit(b, iota(5));
  CHECK(table(cache, a) == Ids{0, 1});
  CHECK(table(cache, b) == Ids{0, 3});
  CHECK(cache.stats().n_used_blocks == 3);
  cache.check_invariants();
}

TEST_CASE("paged: forced collisions never hand out another text") {
  PagedCache cache(paged_config({{}}, 4, {32}, "lru", true, 0));
  const auto a = fill(cache, joined(iota(4), iota(4, 100)));
  fill(cache, joined(iota(4, 50), iota(4, 100)));
  const auto same = cache.match_prefix(joined(iota(4), iota(5, 100)), 100);
  CHECK(same.n_tokens == 8);
  CHECK(table(cache, same.sequence) == table(cache, a));
  CHECK(cache.match_prefix(joined(iota(4, 70), iota(5, 100)), 100).n_tokens == 0);
  CHECK(cache.match_prefix(iota(5, 100), 100).n_tokens == 0);
}

TEST_CASE("paged: texts are evicted from the tail, the least recently released first") {
  PagedCache cache(paged_config({{}}, 4, {6}));
  const auto a = fill(cache, iota(12));       // 0 1 2
  const auto b = fill(cache, iota(12, 100));  // 3 4 5
  cache.release(b);
  cache.release(a);
  CHECK(cache.stats().n_cached_blocks == 6);
  const auto c = fill(cache, iota(8, 200));
  CHECK(table(cache, c) == Ids{5, 4});  // b's tail
  CHECK(cache.stats().n_evicted_blocks == 2);
  const auto again = cache.match_prefix(iota(13, 100), 100);
  CHECK(again.n_tokens == 4);
  CHECK(again.miss_reason == "evicted");
  const auto d = fill(cache, iota(8, 300));
  CHECK(table(cache, d) == Ids{2, 1});  // b's head is in use, so a's tail
  cache.check_invariants();
}

TEST_CASE("paged: lfu keeps what is used often, fifo what is new") {
  for (const char* policy : {"lfu", "fifo"}) {
    PagedCache cache(paged_config({{}}, 4, {4}, policy));
    cache.release(fill(cache, iota(8)));                     // 0 1
    cache.release(fill(cache, iota(8, 100)));                // 2 3
    cache.release(cache.match_prefix(iota(9), 9).sequence);  // uses 0 1
    const auto c = fill(cache, iota(4, 200));
    CHECK(table(cache, c) == (std::string(policy) == "lfu" ? Ids{3} : Ids{1}));
  }
}

TEST_CASE("paged: trim into a published block takes it back or copies it") {
  PagedCache cache(paged_config({{}}, 4, {8}));
  const auto a = fill(cache, iota(8));
  CHECK(cache.trim(a, 6) == 6);
  CHECK(table(cache, a) == Ids{0, 1});
  REQUIRE(cache.reserve(a, 2).ok);  // alone: written in place, and no longer offered to others
  CHECK(table(cache, a) == Ids{0, 1});
  CHECK(cache.take_copies().empty());
  cache.commit(a, iota(2, 6));
  const auto b = fill(cache, iota(9));
  CHECK(cache.trim(a, 6) == 6);
  REQUIRE(cache.reserve(a, 1).ok);  // shared with b
  CHECK(cache.take_copies().size() == 1);
  CHECK(table(cache, b)[1] == 1);
  CHECK(table(cache, a)[1] != 1);
  CHECK(cache.trim(a, 0) == 0);
  CHECK(table(cache, a).empty());
  CHECK_THROWS_AS(cache.trim(a, 1), InvalidArgument);
  cache.check_invariants();
}

TEST_CASE("hybrid: a windowed group keeps its window and a resume needs both groups") {
  PagedCache cache(paged_config({{6, 0}, {}}, 4, {5, 16}));
  const auto a = cache.match_prefix(iota(40), 100).sequence;
  for (TokenId at = 0; at < 24; at += 4) {
    REQUIRE(cache.reserve(a, 4).ok);
    cache.commit(a, iota(4, at));
    cache.check_invariants();
  }
  // Position 24 sees 19..24: blocks 4 and 5.
  CHECK(table(cache, a, 1) == Ids{0, 1, 2, 3, 4, 5});
  CHECK(table(cache, a, 0) == Ids{-1, -1, -1, -1, 4, 0});  // the first block went round
  CHECK(cache.stats().n_window_blocks == 4);
  cache.release(a);
  const auto whole = cache.match_prefix(iota(26), 100);
  CHECK(whole.n_tokens == 24);
  cache.release(whole.sequence);
  // Everything before is in the global group, but the windowed one has lost block 0 and with it
  // only resume points that would need it.
  CHECK(cache.match_prefix(joined(iota(8), iota(9, 500)), 100).n_tokens == 0);
  CHECK(cache.match_prefix(joined(iota(16), iota(9, 500)), 100).n_tokens == 16);
  CHECK(cache.match_prefix(joined(iota(8), iota(9, 500)), 100).miss_reason == "window_lost");
}

TEST_CASE("hybrid: trim goes back to where every group still holds what it needs") {
  PagedCache cache(paged_config({{6, 0}, {}}, 4, {3, 16}));
  const auto a = cache.match_prefix(iota(40), 100).sequence;
  for (TokenId at = 0; at < 24; at += 4) {
    REQUIRE(cache.reserve(a, 4).ok);
    cache.commit(a, iota(4, at));
  }
  CHECK(cache.trim(a, 23) == 23);  // 18..23: blocks 4, 5
  CHECK(cache.trim(a, 20) == 20);  // 15..20: block 3 has come back from the cache
  CHECK(cache.view(a).block_tables[0][3] != kNoBlock);
  CHECK(cache.trim(a, 15) == 0);  // blocks 2 and 3; 2 has been evicted
  cache.check_invariants();
}

TEST_CASE("sliding window: memory stays bounded, sinks stay, blocks go round") {
  SlidingWindowCache cache(paged_config({{}}, 4, {5}, "lru", false), 8, 2);
  CHECK(cache.group_spec(0).window == 8);
  CHECK(cache.group_spec(0).sinks == 2);
  const auto a = cache.match_prefix(iota(1), 100000).sequence;
  Ids seen;
  for (TokenId at = 0; at < 1000; ++at) {
    REQUIRE(cache.reserve(a, 1).ok);
    cache.commit(a, iota(1, at));
    cache.check_invariants();
    CHECK(cache.stats().n_used_blocks <= 4);
  }
  const auto blocks = table(cache, a);
  REQUIRE(blocks.size() == 250);
  CHECK(blocks[0] == 0);  // the sinks
  for (std::size_t b = 1; b < 248; ++b) CHECK(blocks[b] == kNoBlock);
  CHECK(cache.stats().n_window_blocks == 247);
}

TEST_CASE("sliding window: layers with a narrower window of their own keep it, without sinks") {
  SlidingWindowCache cache(paged_config({{6, 0}, {0, 0}, {32, 0}}, 4, {4, 4, 4}), 16, 4);
  CHECK(cache.group_spec(0).window == 6);
  CHECK(cache.group_spec(0).sinks == 0);
  for (const std::size_t g : {1u, 2u}) {
    CHECK(cache.group_spec(g).window == 16);
    CHECK(cache.group_spec(g).sinks == 4);
  }
  CHECK_THROWS_AS(SlidingWindowCache(paged_config({{}}, 4, {4}), 0, 0), InvalidArgument);
}

TEST_CASE("sliding window: a step tells attention what the cache keeps and where it lies") {
  SlidingWindowCache cache(paged_config({{}, {3, 0}}, 4, {8, 8}), 6, 2);
  const auto a = fill(cache, iota(16));
  REQUIRE(cache.reserve(a, 1).ok);
  StepAssembler assembler(100);
  const std::vector<SequenceId> sequences{a};
  const std::vector<std::int32_t> starts{0, 1}, rows{0};
  const Tokens tokens = iota(1);
  const StepInputs inputs = assembler.assemble({sequences, starts, tokens, rows}, cache);
  REQUIRE(inputs.groups.size() == 2);
  CHECK(inputs.groups[0].window == 6);
  CHECK(inputs.groups[0].sinks == 2);
  CHECK(inputs.groups[1].window == 3);
  CHECK(inputs.groups[1].sinks == 0);
  // Position 16 sees 11..16 and 0, 1; then 14..16.
  const auto table_of = [&](std::size_t g) {
    return Ids(inputs.groups[g].block_tables.begin(), inputs.groups[g].block_tables.end());
  };
  CHECK(table_of(0) == Ids{0, -1, 2, 3, 4});
  CHECK(table_of(1) == Ids{-1, -1, -1, 3, 4});
  CHECK(inputs.groups[0].slot_mapping[0] == 16);
}

TEST_CASE("contiguous: a text that outgrew its run moves, or starts anew") {
  ContiguousCache cache(1, 4, 8, true);
  cache.release(fill(cache, iota(7), 8));
  const auto longer = cache.match_prefix(iota(12), 20);
  CHECK(longer.n_tokens == 7);
  CHECK(table(cache, longer.sequence) == Ids{2, 3, 4, 5, 6});
  CHECK(cache.take_copies().size() == 2);
  cache.release(longer.sequence);
  cache.check_invariants();
  const auto too_long = cache.match_prefix(iota(12), 36);
  CHECK(too_long.n_tokens == 0);
  CHECK(too_long.miss_reason == "run_too_small");
  cache.check_invariants();
}

TEST_CASE("a cache refuses shapes that make no sense and sequences that are not live") {
  CHECK_THROWS_AS(PagedCache(paged_config({}, 4, {})), InvalidArgument);
  CHECK_THROWS_AS(PagedCache(paged_config({{}}, 0, {4})), InvalidArgument);
  CHECK_THROWS_AS(PagedCache(paged_config({{}}, 4, {0})), InvalidArgument);
  CHECK_THROWS_AS(PagedCache(paged_config({{}}, 4, {4, 4})), InvalidArgument);
  PagedCache cache(paged_config({{}}, 4, {4}));
  const auto a = fill(cache, iota(2));
  cache.release(a);
  CHECK_THROWS_AS(cache.release(a), InvalidArgument);
  CHECK_THROWS_AS((void)cache.view(a), InvalidArgument);
}

// Caches belong to one thread at a time; only stats() may be called beside it. Under a lock several
// threads can share one.
TEST_CASE("threads that take turns leave a cache whole while its statistics are read") {
  PagedCache cache(paged_config({{}, {9, 0}}, 4, {64, 48}));
  std::mutex mutex;
  std::atomic<int> n_running{4};
  const auto work = [&](std::uint64_t seed) {
    const auto bytes = random_bytes(seed, 3000);
    Choices choices(bytes);
    std::vector<SequenceId> mine;
    while (!choices.done()) {
      const std::scoped_lock lock(mutex);
      const Tokens tokens = iota(1 + choices.below(20), static_cast<TokenId>(choices.below(2)));
      const auto match = cache.match_prefix(tokens, 64);
      const auto rest = std::span(tokens).subspan(match.n_tokens);
      if (cache.reserve(match.sequence, rest.size()).ok) cache.commit(match.sequence, rest);
      mine.push_back(match.sequence);
      mine.push_back(cache.fork(mine[choices.below(mine.size())]).sequence);
      while (mine.size() > choices.below(6)) {
        cache.release(mine.back());
        mine.pop_back();
      }
    }
    const std::scoped_lock lock(mutex);
    for (const SequenceId id : mine) cache.release(id);
    --n_running;
  };
  std::vector<std::thread> threads;
  for (std::uint64_t seed = 0; seed < 4; ++seed) threads.emplace_back(work, seed);
  bool sane = true;
  while (n_running > 0) {
    const CacheStats s = cache.stats();
    sane = sane && s.n_used_blocks + s.n_cached_blocks <= s.n_blocks && s.n_blocks == 112;
  }
  for (auto& thread : threads) thread.join();
  CHECK(sane);
  cache.check_invariants();
  CHECK(cache.stats().n_used_blocks == 0);
}

}  // namespace quarrel::testing
