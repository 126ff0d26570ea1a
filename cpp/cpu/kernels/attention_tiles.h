// The two products of attention, over one step of 64 cache positions.
#pragma once

#include "cpu/kernels.h"
#include "cpu/simd/simd.h"

namespace quarrel::cpu::QUARREL_ISA {

inline constexpr std::size_t kLanes = 16;
inline constexpr std::size_t kStepTiles = kAttentionPositions / kLanes;
inline constexpr std::size_t kStepUnits = kAttentionPositions / kKVUnit;
inline constexpr std::size_t kGroup = 4;  // rows that share a load of K or V
static_assert(kKVLanes == kLanes);

// Where the positions of a step lie: the token, counted over all blocks and heads of the layer,
// that each run of 8 begins with. One that is not wanted may have no block; a wanted one stands in.
struct StepTokens {
  std::size_t unit[kStepUnits];
};

static inline StepTokens tokens_of(const AttentionArgs& a, std::size_t kv_head,
                                   const AttentionSpan& span, std::size_t start) {
  const std::size_t block_size = a.view.block_size;
  const std::size_t tile = kv_tile(block_size);
  std::size_t block = start / block_size;
  std::size_t offset = start % block_size;
  StepTokens tokens;
  bool wanted[kStepUnits];
  std::size_t stand_in = 0;
  for (std::size_t u = 0; u < kStepUnits; ++u, offset += kKVUnit) {
    if (offset == block_size) {
      offset = 0;
      ++block;
    }
    const std::size_t first = (start + u * kKVUnit) & ~(tile - 1);  // of the tile, as a whole
    wanted[u] = first < span.sinks_end || (first < span.end && first + tile > span.begin);
    if (!wanted[u]) continue;
    const auto id = static_cast<std::size_t>(a.block_table[block]);
    tokens.unit[u] = (id * a.view.n_kv_heads + kv_head) * block_size + offset;
    stand_in = tokens.unit[u] & ~(tile - 1);
  }
  for (std::size_t u = 0; u < kStepUnits; ++u)
    if (!wanted[u]) tokens.unit[u] = stand_in;
  return tokens;
}

// The positions of one step: [start, start + 64), of which those of the span are wanted.
struct KVStep {
  const AttentionArgs& args;
  AttentionSpan span;  // of the partition
  std::size_t start;
  StepTokens tokens;    // of this step
  StepTokens upcoming;  // of the next one, or again of this

  // The first step from `at` on with a wanted position; span.end or more: there is none.
  static std::size_t first_from(const AttentionSpan& span, std::size_t at) {
    const std::size_t window_step = span.begin / kAttentionPositions * kAttentionPositions;
    return at < span.sinks_end || at >= window_step ? at : window_step;
  }
  std::size_t next() const { return first_from(span, start + kAttentionPositions); }
  // The wanted positions as two runs, counted from start; [0] are sinks.
  struct Run {
    std::size_t begin;
    std::size_t end;
  };
  Run run(int which) const {
    const std::size_t begin = which == 0 || span.begin < start ? 0 : span.begin - start;
    const std::size_t last = which == 0 ? span.sinks_end : span.end;
    const std::size_t n = last > start ? last - start : 0;
    return {begin, n < kAttentionPositions ? n : kAttentionPositions};
  }
};

// What will be read next. Few rows leave the reading bound by memory, and a tile is too short for
// the hardware to run ahead in.
struct Ahead {
  const std::byte* tiles[kStepTiles];
  std::size_t n_lines;  // of 64 bytes per tile; 0: all is in cache

  // Call number `turn` of as many as there are dimensions.
  void prefetch(std::size_t turn) const {
    const std::size_t line = turn / 2;
    if (line >= n_lines) return;
    __builtin_prefetch(tiles[turn % 2] + line * 64);
    __builtin_prefetch(tiles[turn % 2 + 2] + line * 64);
  }
};

static inline Ahead ahead_of(const KVView& view, const StepTokens& tokens, const std::byte* base,
                             KVElement element) {
  const std::size_t bytes = kv_token_bytes(element, view.head_dim);
  Ahead ahead;
  for (std::size_t i = 0; i < kStepTiles; ++i) ahead.tiles[i] = base + tokens.unit[2 * i] * bytes;
  ahead.n_lines = kv_tile(view.block_size) * bytes / 64;
  return ahead;
}

// scores[n_rows, 64] = q[n_rows, head_dim] K. Scores of positions that are not wanted are
// anything. expanded: [64 * head_dim] of scratch.
void score(const KVStep& step, std::size_t n_rows, const float* q, float* scores, float* expanded);

// out[n_rows, head_dim] += weights[n_rows, 64] V, over the wanted positions in ascending order.
void accumulate(const KVStep& step, std::size_t n_rows, const float* weights, float* out,
                float* expanded);

}  // namespace quarrel::cpu::QUARREL_ISA
