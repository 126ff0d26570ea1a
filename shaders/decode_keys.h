// Scores of q8_0 and q4_0 keys by matrices (decode_matrices.h): keys are rows, queries columns.
#pragma once
#include "decode_matrices.h"

// Columns of queries in threadgroup memory, for all simdgroups: a lane's elements of the four
// matrices of scale group s are word 32 * s of its own.
struct MatrixQueries {
  threadgroup const uint4* high;  // where halves share a matrix, both
  threadgroup const uint4* low;
  float factor;  // of the sums of products
  float softcap;
};

// The queries in units of log2(e), times a power of two that fits them to half. Heads beyond
// n_heads repeat the last one. A threadgroup barrier has to follow.
inline void store_queries(thread MatrixQueries& to, threadgroup uint4* stage, device const float* q,
                          uint n_heads, float scale, thread const Lane& lane,
                          thread const MatrixPlace& place) {
  const uint head = first_head(place);
  device const float* row = q + min(head, n_heads - 1) * kHeadDim;
  device const float* other = q + min(head + 1, n_heads - 1) * kHeadDim;
  const uint first = place.row / 2 * kKVChunk + place.row % 2 * 2;
  float largest = 0.0f;
  for (uint at = first; at < kHeadDim; at += kKVScaleGroup) {
#pragma unroll(4)
    for (uint i = 0; i < uint(kPairsOfChunk); ++i) {
      largest = max(largest, fabs(row[at + pair_element(i)]));
      if (kIsSplit) largest = max(largest, fabs(other[at + pair_element(i)]));
    }
  }
  const float unit = power_of_two(simd_max(largest) * scale * M_LOG2E_F);
  for (uint s = lane.simdgroup; s < kScaleGroups; s += kAttentionSimdgroups) {
    uint4 high = uint4(0);
    uint4 low = uint4(0);
#pragma unroll(4)
    for (uint i = 0; i < uint(kPairsOfChunk); ++i) {
      const uint at = first + s * kKVScaleGroup + pair_element(i);
      if (at >= kHeadDim) continue;
      const float2 x = float2(row[at], kIsSplit ? other[at] : row[at]) * (scale * M_LOG2E_F);
      const float2 fitted = x * inverse_power(unit) * 16384.0f;
      const half2 a = half2(fitted);
      const half2 b = half2(fitted - float2(a));
      high[i] = as_type<uint>(kIsSplit ? a : half2(a.x, b.x));
      low[i] = as_type<uint>(b);
    }
    stage[s * 32 + lane.index] = high;
    if (kIsSplit) stage[(kScaleGroups + s) * 32 + lane.index] = low;
  }
  to.high = stage + lane.index;
  to.low = stage + kScaleGroups * 32 + lane.index;
  to.factor = unit / 16384.0f;
}

// A lane's part of the keys of 8 * kTokens tokens: kTokens tokens of its row.
struct KeyTile {
  uint4 words[kMaxScaleGroups];
  uint2 scales[kMaxScaleGroups];  // of each token a half
};

// Reads a lane's part. The last scale group may be a part, beyond which lanes read anything.
template <uint kTokens, bool kIsWhole>
inline void load_keys(thread KeyTile& tile, thread const HeadCache& k,
                      thread const BlockIds& blocks, thread const Round& round, uint step,
                      thread const MatrixPlace& place) {
  Place at;
  find_tokens<kTokens, kIsWhole>(at, k, blocks, round, step + place.row * kTokens);
  const uint last = kHeadDim / kKVChunk - 1;
  const bool is_part = kHeadDim % kKVScaleGroup != 0;
  device const uint4* words = words_of(at, kKType, min(place.pair, last));
  device const uchar* scales = scales_of(at, kKType, 0);
  EACH_SCALE_GROUP(s) {
    const uint chunk = is_part ? min(4 * s + place.pair, last) - min(place.pair, last) : 4 * s;
    tile.words[s] = word_at(words + chunk);
    device const uchar* of_group = scales + 16 * s;
    if (kTokens == 2) {
      tile.scales[s].x = *(device const uint*)of_group;
    } else {
      tile.scales[s].x = ((device const uint2*)of_group)->x;
      tile.scales[s].y = ((device const uint2*)of_group)->y;
    }
  }
}

// Adds to the scores of kTokens tokens of a lane's row.
template <uint kTokens>
inline void multiply_keys(thread float2* scores, thread const KeyTile& tile,
                          thread const MatrixQueries& queries, thread const MatrixPlace& place) {
  EACH_SCALE_GROUP(s) {
    const uint4 high = queries.high[32 * s];
    const uint4 low = kIsSplit ? queries.low[32 * s] : uint4(0);
#pragma unroll(4)
    for (uint m = 0; m < kTokens; ++m) {
      simdgroup_float8x8 products = make_filled_simdgroup_matrix<float, 8>(0.0f);
#pragma unroll(4)
      for (uint i = 0; i < uint(kPairsOfChunk); ++i) {
        simdgroup_half8x8 key;
        simdgroup_half8x8 query;
        set_elements(key, word_pair<kTokens>(tile.words[s], m, i, place));
        set_elements(query, as_type<half2>(high[i]));
        simdgroup_multiply_accumulate(products, key, query, products);
        if (!kIsSplit) continue;
        set_elements(query, as_type<half2>(low[i]));
        simdgroup_multiply_accumulate(products, key, query, products);
      }
      const float scale = float(scale_at(tile.scales[s][m / 2], m));
      const float x = products.thread_elements()[0];
      const float y = products.thread_elements()[1];
      scores[m].x = fma(scale, kIsSplit ? x : x + y, scores[m].x);
      if (kIsSplit) scores[m].y = fma(scale, y, scores[m].y);
    }
  }
}

// Scores of this simdgroup's tokens of a round, to `scores`; in `largest` that of each head.
template <uint kTokens, bool kIsWhole>
inline void score_tiles(thread Scores& largest, thread const HeadCache& k,
                        thread const BlockIds& blocks, thread const MatrixQueries& queries,
                        thread const Round& round, thread const Lane& lane,
                        thread const MatrixPlace& place, threadgroup float* scores) {
  const uint size = 8 * kTokens;
  const uint stride = kAttentionSimdgroups * size;
  const uint head = first_head(place);
  const uint row = place.row * kTokens;
  float2 found = float2(kMasked);
  const uint first = round.first + lane.simdgroup * size;
  KeyTile tiles[2];  // one is under way
  load_keys<kTokens, kIsWhole>(tiles[0], k, blocks, round, first, place);
  for (uint begin = first; begin < round.end; begin += 2 * stride) {
#pragma unroll(2)
    for (uint i = 0; i < 2; ++i) {
      const uint step = begin + i * stride;
      if (step >= round.end) break;
      load_keys<kTokens, kIsWhole>(tiles[1 - i], k, blocks, round, step + stride, place);
      float2 s[kTokens] = {};
      multiply_keys<kTokens>(s, tiles[i], queries, place);
      const uint token = step + row;
      const uint seen = kIsWhole ? 0xff : visible_bits(round, token & ~7u) >> token % 8;
#pragma unroll(4)
      for (uint m = 0; m < kTokens; ++m) s[m] *= queries.factor;
      if (queries.softcap != 0.0f) {
#pragma unroll(4)
        for (uint m = 0; m < kTokens; ++m) {
          s[m].x = capped(s[m].x, queries.softcap);
          if (kIsSplit) s[m].y = capped(s[m].y, queries.softcap);
        }
      }
#pragma unroll(4)
      for (uint m = 0; m < kTokens; ++m) {
        const bool is_seen = (seen >> m & 1) != 0;
        s[m].x = is_seen && head < kGroup ? s[m].x : kMasked;
        s[m].y = is_seen && head + 1 < kGroup ? s[m].y : kMasked;
        found.x = max(found.x, s[m].x);
        if (kIsSplit) {
          found.y = max(found.y, s[m].y);
          ((threadgroup float2*)
               scores)[(head / 4 * kScorePlaces + score_place(token) + m) * 2 + head % 4 / 2] =
              s[m];
        } else {
          scores[(score_place(token) + m) * 4 + head] = s[m].x;
        }
      }
    }
  }
  EACH_HEAD(g) {
    largest.v[g] = g == head ? found.x : kIsSplit && g == head + 1 ? found.y : kMasked;
  }
}

template <uint kTokens>
inline void score_round_by_matrices(thread Scores& largest, thread const HeadCache& k,
                                    thread const BlockIds& blocks,
                                    thread const MatrixQueries& queries, thread const Round& round,
                                    thread const Lane& lane, thread const MatrixPlace& place,
                                    threadgroup float* scores) {
  if (round.is_whole) {
    score_tiles<kTokens, true>(largest, k, blocks, queries, round, lane, place, scores);
  } else {
    score_tiles<kTokens, false>(largest, k, blocks, queries, round, lane, place, scores);
  }
}
