// The two products of attention, over one step of 64 cache positions.
#pragma once

#include "cpu/kernels.h"
#include "cpu/simd/simd.h"

namespace quarrel::cpu::QUARREL_ISA {

inline constexpr std::size_t kLanes = 16;
inline constexpr std::size_t kStepTiles = kAttentionPositions / kKVTile;
static_assert(kKVTile == kLanes);

// The positions of one step: [start, start + 64), of which those of the span are wanted.
struct KVStep {
  const AttentionArgs& args;
  std::size_t kv_head;
  AttentionSpan span;  // of the partition
  std::size_t start;

  // The first step from `at` on with a wanted position; span.end or more: there is none.
  static std::size_t first_from(const AttentionSpan& span, std::size_t at) {
    const std::size_t window_step = span.begin / kAttentionPositions * kAttentionPositions;
    return at < span.sinks_end || at >= window_step ? at : window_step;
  }
  std::size_t next() const { return first_from(span, start + kAttentionPositions); }
  bool wants(std::size_t from, std::size_t to) const {
    return from < span.sinks_end || (from < span.end && to > span.begin);
  }
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
  // A position that is wanted.
  std::size_t wanted() const {
    return start < span.sinks_end || start >= span.begin ? start : span.begin;
  }
};

// scores[n_rows, 64] = q[n_rows, head_dim] K. Scores of positions that are not wanted are
// anything. expanded: [64 * head_dim] of scratch.
void score(const KVStep& step, std::size_t n_rows, const float* q, float* scores, float* expanded);

// out[n_rows, head_dim] += weights[n_rows, 64] V, over the wanted positions in ascending order.
void accumulate(const KVStep& step, std::size_t n_rows, const float* weights, float* out,
                float* expanded);

}  // namespace quarrel::cpu::QUARREL_ISA
