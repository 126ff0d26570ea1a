// Window arithmetic, positions and slots, eviction order, the prefix index, statistics.
#include <doctest/doctest.h>

#include <thread>
#include <vector>

#include "cache/block_table.h"
#include "cache/cache_stats.h"
#include "cache/eviction.h"
#include "cache/layer_groups.h"
#include "cache/prefix_index.h"
#include "core/error.h"

namespace quarrel {

TEST_CASE("a slot is its block and its place in it") {
  const std::vector<BlockId> table{5, kNoBlock, 2};
  CHECK(slot_of(table, 4, LogicalPosition{0}) == PhysicalSlot{20});
  CHECK(slot_of(table, 4, LogicalPosition{3}) == PhysicalSlot{23});
  CHECK(slot_of(table, 4, LogicalPosition{4}) == kNoSlot);
  CHECK(slot_of(table, 4, LogicalPosition{9}) == PhysicalSlot{9});
  CHECK(slot_of(table, 4, LogicalPosition{12}) == kNoSlot);
}

TEST_CASE("the first visible position follows the window") {
  const GroupSpec spec{4, 0};
  CHECK(window_start(spec, 0) == 0);
  CHECK(window_start(spec, 3) == 0);
  CHECK(window_start(spec, 4) == 1);
  CHECK(window_start(spec, 100) == 97);
  CHECK(window_start({1, 0}, 7) == 7);
  CHECK(window_start({0, 0}, 1000) == 0);
}

TEST_CASE("needed blocks are the sinks' and the window's") {
  // Blocks of 4: position 20 sees 15..20, that is blocks 3 and 4; the sinks 0..4 fill blocks 0, 1.
  const auto needed = needed_blocks({6, 5}, 4, 20);
  CHECK(needed.sinks_end == 2);
  CHECK(needed.window_begin == 3);
  CHECK(needed.end == 5);
  for (std::size_t b = 0; b < 6; ++b) CHECK(needed.contains(b) == (b < 5 && b != 2));
  // A window of one token at a block's edge needs nothing of the past.
  CHECK(needed_blocks({1, 0}, 4, 8).window_begin == 2);
  CHECK(needed_blocks({1, 0}, 4, 9).window_begin == 2);
  CHECK(needed_blocks({0, 0}, 4, 9).window_begin == 0);
  CHECK(needed_blocks({6, 5}, 4, 3).end == 1);
}

TEST_CASE("windows agree with a token by token definition") {
  for (std::size_t window = 1; window < 20; ++window)
    for (std::size_t sinks = 0; sinks < 10; ++sinks)
      for (std::size_t block_size : {1u, 3u, 8u})
        for (std::size_t n = 0; n < 60; ++n) {
          std::vector<bool> seen(blocks_for(n, block_size), false);
          for (std::size_t p = 0; p < n; ++p)
            if (n - p < window || p < sinks) seen[p / block_size] = true;
          const auto needed = needed_blocks({window, sinks}, block_size, n);
          for (std::size_t b = 0; b < seen.size(); ++b) {
            // Blocks with sinks are pinned whole; the block of position n may be kept for writing.
            const bool last = b == n / block_size;
            REQUIRE((needed.contains(b) == seen[b] || (last && needed.contains(b))));
          }
        }
}

namespace {

std::vector<BlockId> order(const char* name) {
  const auto policy = make_eviction_policy(name, 8);
  policy->insert(3, {1, 9, 5});
  policy->insert(0, {2, 7, 0});
  policy->insert(6, {3, 8, 0});
  policy->insert(1, {4, 6, 2});
  policy->insert(5, {5, 5, 1});
  policy->erase(6);
  policy->insert(6, {3, 10, 1});
  policy->erase(0);
  std::vector<BlockId> victims;
  for (int i = 0; i < 4; ++i) {
    victims.push_back(policy->victim());
    policy->erase(victims.back());
  }
  return victims;
}

}  // namespace

TEST_CASE("policies choose by time of release, by uses, by time of publishing") {
  CHECK(order("lru") == std::vector<BlockId>{5, 1, 3, 6});
  CHECK(order("lfu") == std::vector<BlockId>{5, 6, 1, 3});
  CHECK(order("fifo") == std::vector<BlockId>{3, 6, 1, 5});
  CHECK_THROWS_AS(make_eviction_policy("random", 8), InvalidArgument);
}

TEST_CASE("a policy's heap agrees with a sorted list") {
  const auto policy = make_eviction_policy("lru", 64);
  std::vector<std::pair<std::uint64_t, BlockId>> twin;
  std::uint64_t state = 1;
  for (int i = 0; i < 5000; ++i) {
    state = mix_bits(state + 1);
    const auto block = static_cast<BlockId>(state % 64);
    const auto found = std::ranges::find(twin, block, &std::pair<std::uint64_t, BlockId>::second);
    if (found != twin.end()) {
      policy->erase(block);
      twin.erase(found);
    } else {
      // Distinct keys, so that the order is fully determined.
      const std::uint64_t time = (state >> 32) * 8192 + static_cast<std::uint64_t>(i);
      policy->insert(block, {0, time, 0});
      twin.emplace_back(time, block);
    }
    if (!twin.empty()) REQUIRE(policy->victim() == std::ranges::min(twin).second);
  }
}

TEST_CASE("the index tells equal blocks after different texts apart, even when hashes collide") {
  for (const int bits : {64, 2, 0}) {
    PrefixIndex index(1, 2, 7, 4, bits);
    const std::vector<TokenId> a{1, 2}, b{3, 4};
    const NodeId na = index.find_or_add(kRootNode, a);
    index.set_block(na, 0, 10);
    const NodeId nb = index.find_or_add(kRootNode, b);
    index.set_block(nb, 0, 11);
    const NodeId ab = index.find_or_add(na, b);
    index.set_block(ab, 0, 12);
    CHECK(index.find(kRootNode, b) == nb);
    CHECK(index.find(na, b) == ab);
    CHECK(index.find(nb, a) == kNoNode);
    CHECK(index.find_or_add(na, b) == ab);
    CHECK(index.n_nodes() == 4);
    CHECK(index.n_held_children(na, 0) == 1);
    // A parent without a block stays for its child's sake and goes with it.
    index.clear_block(na, 0);
    CHECK(index.find(na, b) == ab);
    index.clear_block(ab, 0);
    CHECK(index.n_nodes() == 2);
    CHECK(index.find(kRootNode, a) == kNoNode);
    CHECK(index.was_removed(kRootNode, a));
    index.check_invariants(std::vector<std::size_t>(index.n_slots(), 0));
  }
}

TEST_CASE("a full index takes no new text until one goes") {
  PrefixIndex index(1, 1, 0, 3, 64);
  NodeId node = kRootNode;
  for (const TokenId token : {5, 6, 7}) node = index.find_or_add(node, {{token}});
  CHECK(index.is_full());
  CHECK(index.n_nodes() == 4);
  CHECK(index.find_or_add(node, {{8}}) == kNoNode);
  CHECK(index.find_or_add(kRootNode, {{5}}) != kNoNode);  // known
  index.hold(node);
  std::vector<std::size_t> holders(index.n_slots(), 0);
  holders[static_cast<std::size_t>(node)] = 1;
  index.check_invariants(holders);
  index.let_go(node);
  CHECK(index.n_nodes() == 1);
  CHECK(index.find_or_add(kRootNode, {{8}}) != kNoNode);
}

TEST_CASE("salts keep texts of different models apart") {
  const std::vector<TokenId> tokens{1, 2, 3};
  CHECK(chain_hash(mix_bits(1), tokens) != chain_hash(mix_bits(2), tokens));
  CHECK(chain_hash(0, std::vector<TokenId>{1, 2}) != chain_hash(0, std::vector<TokenId>{2, 1}));
}

TEST_CASE("statistics are read whole while they are written") {
  StatsBoard board;
  std::atomic<bool> stop{false};
  std::thread writer([&] {
    for (std::size_t i = 1; !stop; ++i) board.publish({i, i, i, i, i, i, i, i, i, {}, {{}, i}});
  });
  std::size_t last = 0;
  bool whole = true;
  bool forward = true;
  for (int i = 0; i < 20000; ++i) {
    const CacheStats s = board.read();
    whole = whole && s.n_blocks == s.lifetimes.total_microseconds && s.n_blocks == s.n_sequences;
    forward = forward && s.n_blocks >= last;
    last = s.n_blocks;
  }
  stop = true;
  writer.join();
  CHECK(whole);
  CHECK(forward);
}

}  // namespace quarrel
