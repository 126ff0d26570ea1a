// The two products of attention, over one step of 64 cache positions.
#pragma once

#include "cpu/kernels.h"
#include "cpu/simd/simd.h"

namespace quarrel::cpu::QUARREL_ISA {

inline constexpr std::size_t kLanes = 16;
inline constexpr std::size_t kStepTiles = kAttentionPositions / kKVTile;
static_assert(kKVTile == kLanes);

// The positions of one step: [start, start + 64), of which [begin, end) are wanted.
struct KVStep {
  const AttentionArgs& args;
  std::size_t kv_head;
  std::size_t start;
  std::size_t begin;
  std::size_t end;
  std::size_t next_end;  // [start + 64, next_end) comes after this step; may be empty
};

// scores[n_rows, 64] = q[n_rows, head_dim] K. Scores of positions that are not wanted are
// anything. expanded: [64 * head_dim] of scratch.
void score(const KVStep& step, std::size_t n_rows, const float* q, float* scores, float* expanded);

// out[n_rows, head_dim] += weights[n_rows, 64] V, over the wanted positions in ascending order.
void accumulate(const KVStep& step, std::size_t n_rows, const float* weights, float* out,
                float* expanded);

}  // namespace quarrel::cpu::QUARREL_ISA
