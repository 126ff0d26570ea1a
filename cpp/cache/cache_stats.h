// What a cache counts, readable from any thread while the engine's thread works.
#pragma once

#include <algorithm>
#include <array>
#include <atomic>
#include <bit>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <string_view>
#include <type_traits>

namespace quarrel {

// Why prompt tokens were not in the cache; KVCache::match_prefix says what they mean.
inline constexpr std::array<std::string_view, 10> kMissReasons{
    "none",    "partial_block", "empty",         "diverged",  "shorter",
    "evicted", "window_lost",   "run_too_small", "no_memory", "disabled"};

// How long blocks were held, from being handed out to being free again: a histogram.
struct BlockLifetimes {
  using Clock = std::chrono::steady_clock;
  // Upper bounds, inclusive; the last bucket has none.
  static constexpr std::array<double, 11> kBoundsSeconds{0.01, 0.03, 0.1, 0.3, 1,   3,
                                                         10,   30,   100, 300, 1000};

  std::array<std::size_t, kBoundsSeconds.size() + 1> n_blocks;
  std::size_t total_microseconds;

  void record(Clock::time_point since, std::size_t count) {
    const auto held = Clock::now() - since;
    const double seconds = std::chrono::duration<double>(held).count();
    const auto bucket = std::ranges::lower_bound(kBoundsSeconds, seconds) - kBoundsSeconds.begin();
    n_blocks[static_cast<std::size_t>(bucket)] += count;
    const auto whole = std::chrono::duration_cast<std::chrono::microseconds>(held).count();
    total_microseconds += count * static_cast<std::size_t>(whole);
  }

  void add(const BlockLifetimes& other) {
    for (std::size_t i = 0; i < n_blocks.size(); ++i) n_blocks[i] += other.n_blocks[i];
    total_microseconds += other.total_microseconds;
  }
};

struct CacheStats {
  std::size_t n_blocks;         // of all groups
  std::size_t n_used_blocks;    // held by live sequences
  std::size_t n_cached_blocks;  // held for reuse, may be evicted
  std::size_t n_sequences;      // live
  std::size_t n_prefix_queries_tokens;
  std::size_t n_prefix_hit_tokens;
  std::size_t n_evicted_blocks;  // cached ones given up for room
  std::size_t n_window_blocks;   // let go by live sequences because they left the window
  std::size_t n_copied_blocks;   // by forks and copy-on-write
  std::array<std::size_t, kMissReasons.size()> n_missed_tokens;  // queries that were no hits
  BlockLifetimes lifetimes;

  // A prompt of n_queried tokens of which n_hit were there, and why it were not more.
  void count_match(std::size_t n_queried, std::size_t n_hit, std::string_view reason) {
    n_prefix_queries_tokens += n_queried;
    n_prefix_hit_tokens += n_hit;
    const auto index = std::ranges::find(kMissReasons, reason) - kMissReasons.begin();
    n_missed_tokens.at(static_cast<std::size_t>(index)) += n_queried - n_hit;
  }
};

// One writer, any number of readers, and neither waits for the other: a sequence lock whose words
// are atomics (Boehm, "Can Seqlocks Get Along With Programming Language Memory Models?", 2012).
// A reader retries when a write passed by, so it never sees half of an update.
class StatsBoard {
 public:
  void publish(const CacheStats& stats) {
    const auto words = std::bit_cast<Words>(stats);
    const std::uint64_t version = version_.load(std::memory_order_relaxed);
    version_.store(version + 1, std::memory_order_relaxed);
    for (std::size_t i = 0; i < kWords; ++i) words_[i].store(words[i], std::memory_order_release);
    version_.store(version + 2, std::memory_order_release);
  }

  CacheStats read() const {
    for (;;) {
      const std::uint64_t before = version_.load(std::memory_order_acquire);
      Words words;
      for (std::size_t i = 0; i < kWords; ++i) words[i] = words_[i].load(std::memory_order_acquire);
      if (before % 2 == 0 && before == version_.load(std::memory_order_relaxed))
        return std::bit_cast<CacheStats>(words);
    }
  }

 private:
  static constexpr std::size_t kWords = sizeof(CacheStats) / sizeof(std::size_t);
  using Words = std::array<std::size_t, kWords>;
  static_assert(std::is_trivially_copyable_v<CacheStats> && sizeof(Words) == sizeof(CacheStats));

  std::atomic<std::uint64_t> version_{0};
  std::array<std::atomic<std::size_t>, kWords> words_{};
};

}  // namespace quarrel
