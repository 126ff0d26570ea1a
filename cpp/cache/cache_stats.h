// What a cache counts, readable from any thread while the engine's thread works.
#pragma once

#include <array>
#include <atomic>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <type_traits>

namespace quarrel {

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
