// Decode attention over f32, f16 and bf16 K or V: a lane owns eight elements of a head, and the
// queries and sums of all heads for them.
#pragma once
#include "decode_state.h"
#include "kv_tile.h"

// Chunks of every query head.
struct Rows {
  KVChunk v[kAttentionMaxGroup];
};

// Tokens that are not visible come as zeros; where none is, nothing is read.
template <typename Tile>
inline void load_tile(thread Tile& tile, thread const HeadCache& from, uint type, uint base,
                      uint chunk, uint visible) {
  if (visible == 0 || chunk >= kHeadDim / kKVChunk) return;
  KVPlace place;
  kv_place(place, head_run(from, base), type, base % kBlockSize, chunk);
  kv_load(tile, place);
  if (visible != 0xff) kv_keep(tile, visible);
}

// Written out with fma, so that no compiler has a choice.
inline float dot8(thread const KVChunk& a, thread const KVChunk& b) {
  float sum = a.lo.x * b.lo.x;
  sum = fma(a.lo.y, b.lo.y, sum);
  sum = fma(a.lo.z, b.lo.z, sum);
  sum = fma(a.lo.w, b.lo.w, sum);
  sum = fma(a.hi.x, b.hi.x, sum);
  sum = fma(a.hi.y, b.hi.y, sum);
  sum = fma(a.hi.z, b.hi.z, sum);
  return fma(a.hi.w, b.hi.w, sum);
}

// Adds across lanes that differ in bit `step`: into x those of x for lanes without the bit, those
// of y for lanes with it.
inline void exchange(thread Scores& x, thread const Scores& y, uint lane, ushort step) {
  const bool upper = (lane & step) != 0;
  EACH_HEAD(g) {
    const float kept = upper ? y.v[g] : x.v[g];
    x.v[g] = kept + simd_shuffle_xor(upper ? x.v[g] : y.v[g], step);
  }
}

// This lane's part of the scores of token t + (lane & 1).
template <typename Tile>
inline void score_pair(thread Scores& to, thread const Tile& tile, thread const Rows& q, uint t,
                       uint lane) {
  KVChunk first;
  KVChunk second;
  kv_chunk(first, tile, t);
  kv_chunk(second, tile, t + 1);
  Scores other;
  EACH_HEAD(g) {
    to.v[g] = dot8(q.v[g], first);
    other.v[g] = dot8(q.v[g], second);
  }
  exchange(to, other, lane, 1);
}

// The scores of token (lane & 7) of the subset's tile.
template <typename Tile>
inline void score_tile(thread Scores& scores, thread const Tile& tile, thread const Rows& q,
                       uint lane) {
  Scores second;
  score_pair(scores, tile, q, 0, lane);
  score_pair(second, tile, q, 2, lane);
  exchange(scores, second, lane, 2);
  Scores third;
  score_pair(third, tile, q, 4, lane);
  score_pair(second, tile, q, 6, lane);
  exchange(third, second, lane, 2);
  exchange(scores, third, lane, 4);
  EACH_HEAD(g) {
    if (kLanes > 8) scores.v[g] += simd_shuffle_xor(scores.v[g], 8);
    if (kLanes > 16) scores.v[g] += simd_shuffle_xor(scores.v[g], 16);
  }
}

// Scores of this simdgroup's tiles of a round, to `scores`; in `largest` that of each head.
template <typename Tile>
inline void score_round(thread Scores& largest, thread const HeadCache& k, thread const Rows& q,
                        thread const Round& round, float softcap, thread const Lane& lane,
                        threadgroup float4* scores) {
  for (uint step = round.first / kStepTokens + lane.simdgroup; step < round.end / kStepTokens;
       step += kAttentionSimdgroups) {
    const uint token = (step * kSubsets + lane.subset) * kKVTileTokens;
    const uint visible = visible_bits(round, token);
    Scores s;
    mask_all(s);
    if (is_visible(round, step * kStepTokens, kStepTokens)) {
      Tile tile = {};
      load_tile(tile, k, kKType, round.begin + token, lane.chunk, visible);
      score_tile(s, tile, q, lane.index);
    }
    const uint own = lane.index % kKVTileTokens;
    const bool is_seen = (visible >> own & 1) != 0;
    EACH_HEAD(g) {
      s.v[g] = is_seen ? capped(s.v[g], softcap) : kMasked;
      largest.v[g] = max(largest.v[g], s.v[g]);
    }
    if (lane.chunk < uint(kKVTileTokens)) {
      threadgroup float4* place = scores + score_place(token + own);
      place[0] = float4(s.v[0], s.v[1], s.v[2], s.v[3]);
      if (kGroup > 4) place[kRound] = float4(s.v[4], s.v[5], s.v[6], s.v[7]);
    }
  }
}

// Adds the values of this simdgroup's tiles, weighted, to `sums`.
template <typename Tile>
inline void add_values(thread Rows& sums, thread const HeadCache& v, thread const Round& round,
                       thread const Lane& lane, threadgroup const float4* weights) {
  for (uint step = round.first / kStepTokens + lane.simdgroup; step < round.end / kStepTokens;
       step += kAttentionSimdgroups) {
    if (!is_visible(round, step * kStepTokens, kStepTokens)) continue;
    const uint token = (step * kSubsets + lane.subset) * kKVTileTokens;
    const uint visible = visible_bits(round, token);
    Tile tile = {};
    load_tile(tile, v, kVType, round.begin + token, lane.chunk, visible);
#pragma unroll(8)
    for (uint t = 0; t < 8; ++t) {
      KVChunk value;
      kv_chunk(value, tile, t);
      threadgroup const float4* place = weights + score_place(token + t);
      const float4 low = place[0];
      const float4 high = kGroup > 4 ? place[kRound] : float4(0);
      EACH_HEAD(g) {
        const float weight = g < 4 ? low[g % 4] : high[g % 4];
        sums.v[g].lo = fma(float4(weight), value.lo, sums.v[g].lo);
        sums.v[g].hi = fma(float4(weight), value.hi, sums.v[g].hi);
      }
    }
  }
}

// Calls a template with the tile of a KVType that has no scales.
#define WITH_TILE(type, function, ...)   \
  switch (type) {                        \
    case kKVF32:                         \
      function<KVTileF32>(__VA_ARGS__);  \
      break;                             \
    case kKVF16:                         \
      function<KVTileF16>(__VA_ARGS__);  \
      break;                             \
    default:                             \
      function<KVTileBF16>(__VA_ARGS__); \
      break;                             \
  }

// The queries of this lane's chunk, in units of log2(e). Heads beyond n_heads repeat the last one.
inline void load_queries(thread Rows& rows, device const float* q, uint n_heads, float scale,
                         uint chunk) {
  if (chunk >= kHeadDim / kKVChunk) return;
  EACH_HEAD(g) {
    device const float4* row =
        (device const float4*)(q + min(g, n_heads - 1) * kHeadDim) + chunk * 2;
    rows.v[g].lo = row[0] * (scale * M_LOG2E_F);
    rows.v[g].hi = row[1] * (scale * M_LOG2E_F);
  }
}

// Adds the sums of a simdgroup's subsets; every subset then has the total.
inline void add_subsets(thread Rows& sums) {
  EACH_HEAD(g) {
    if (kLanes < 16) {
      sums.v[g].lo += simd_shuffle_xor(sums.v[g].lo, 8);
      sums.v[g].hi += simd_shuffle_xor(sums.v[g].hi, 8);
    }
    if (kLanes < 32) {
      sums.v[g].lo += simd_shuffle_xor(sums.v[g].lo, 16);
      sums.v[g].hi += simd_shuffle_xor(sums.v[g].hi, 16);
    }
  }
}
