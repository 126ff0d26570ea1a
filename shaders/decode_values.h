// Sums of weighted q8_0 and q4_0 values by matrices (decode_matrices.h): rows of weights times
// values, whose rows are tokens.
#pragma once
#include "decode_matrices.h"

// A simdgroup adds values of two scale groups, so that its sums leave registers for others; what
// groups there are more go to its neighbours, and tokens to fewer simdgroups in turn.
enum ValueShape : int { kValueGroups = 2 };
constant uint kValueParts = kScaleGroups <= 2 ? 1 : kScaleGroups <= 4 ? 2 : 4;
constant constexpr float kLargestWeight = 32768.0f;  // a half

enum SumsShape : int { kSums = kValueGroups * kPairsOfChunk };  // matrices

// Rows as those of weights, columns as those of words.
struct MatrixSums {
  thread simdgroup_float8x8* v;  // [kSums]
  float limit;  // of scales: a power of two, 1 or more. Weights are times kLargestWeight / limit.
};

// The head of a row of weights.
inline uint head_of_row(uint row) { return kIsSplit ? row : row / 2; }

inline void scale_sums(thread MatrixSums& sums, float factor) {
#pragma unroll(8)
  for (uint i = 0; i < uint(kSums); ++i) {
    sums.v[i].thread_elements()[0] *= factor;
    sums.v[i].thread_elements()[1] *= factor;
  }
}

inline void start_sums(thread MatrixSums& sums) {
#pragma unroll(8)
  for (uint i = 0; i < uint(kSums); ++i) sums.v[i] = make_filled_simdgroup_matrix<float, 8>(0.0f);
  sums.limit = 1.0f;
}

// Makes room for scales up to `largest`.
inline void fit_sums(thread MatrixSums& sums, float largest) {
  if (!simd_any(largest > sums.limit)) return;
  const float limit = power_of_two(simd_max(largest)) * 2.0f;
  scale_sums(sums, sums.limit * inverse_power(limit));
  sums.limit = limit;
}

// A lane's part of the values of 8 * kTokens tokens, and scales of its two columns of weights:
// kTokens tokens of each.
template <uint kTokens>
struct ValueTile {
  uint4 words[kValueGroups];
  uint scales[kValueGroups][kTokens];  // two halves each
};

// Reads a lane's part. The last scale group may be a part, and some are beyond the head: there
// lanes read anything.
template <uint kTokens, bool kIsWhole>
inline void load_values(thread ValueTile<kTokens>& tile, thread const HeadCache& v,
                        thread const BlockIds& blocks, thread const Round& round, uint step,
                        thread const Lane& lane, thread const MatrixPlace& place) {
  const uint first = lane.simdgroup % kValueParts * kValueGroups;
  const bool is_part = kHeadDim % (kKVScaleGroup * kValueGroups) != 0;
  const uint last = kHeadDim / kKVChunk - 1;
  const uint own = 4 * first + place.pair;
  const uint group = min(first, kScaleGroups - 1);
  Place at;
  find_tokens<kTokens, kIsWhole>(at, v, blocks, round, step + place.row * kTokens);
  device const uint4* words = words_of(at, kVType, min(own, last));
  find_tokens<2 * kTokens, kIsWhole>(at, v, blocks, round, step + place.pair * 2 * kTokens);
  device const uchar* scales = scales_of(at, kVType, group);
#pragma unroll(2)
  for (uint i = 0; i < uint(kValueGroups); ++i) {
    tile.words[i] = word_at(words + (is_part ? min(own + 4 * i, last) - min(own, last) : 4 * i));
    const uint next = is_part ? min(first + i, kScaleGroups - 1) - group : i;
    const vec<uint, kTokens> from = *(device const vec<uint, kTokens>*)(scales + 16 * next);
#pragma unroll(4)
    for (uint j = 0; j < kTokens; ++j) tile.scales[i][j] = from[j];
  }
}

// Weights of a lane's two columns as halves, of kTokens tokens each.
template <uint kTokens>
struct MatrixWeights {
  half2 high[kTokens];
  half2 low[kTokens];
  half2 of_low[kTokens];  // where halves share a matrix: what rows of low halves take off, or 0
};

template <uint kTokens>
inline void split_weights(thread MatrixWeights<kTokens>& to, threadgroup const float* weights,
                          float unit, thread const MatrixPlace& place) {
  const bool is_low = kIsSplit || place.row % 2 != 0;
#pragma unroll(4)
  for (uint m = 0; m < kTokens; ++m) {
    const float2 x = float2(weights[4 * m], weights[4 * (kTokens + m)]) * unit;
    to.high[m] = half2(x);
    const half2 low = half2(x - float2(to.high[m]));
    to.low[m] = is_low ? low : half2(0);
    to.of_low[m] = is_low ? to.high[m] : half2(0);
  }
}

// Adds values times weights times scales. A product of halves is rounded; a multiply-add tells by
// how much.
template <uint kTokens>
inline void multiply_values(thread MatrixSums& sums, thread const ValueTile<kTokens>& tile,
                            thread const MatrixWeights<kTokens>& weights,
                            thread const MatrixPlace& place) {
#pragma unroll(2)
  for (uint s = 0; s < uint(kValueGroups); ++s) {
#pragma unroll(4)
    for (uint m = 0; m < kTokens; ++m) {
      const uint other = kTokens + m;
      const half2 scale =
          half2(scale_at(tile.scales[s][m / 2], m), scale_at(tile.scales[s][other / 2], other));
      const half2 product = weights.of_low[m] * scale;
      const half2 rest = fma(weights.low[m], scale, fma(weights.high[m], scale, -product));
      simdgroup_half8x8 first;
      simdgroup_half8x8 second;
      set_elements(first, kIsSplit ? product : rest);
      set_elements(second, rest);
#pragma unroll(4)
      for (uint i = 0; i < uint(kPairsOfChunk); ++i) {
        simdgroup_half8x8 value;
        set_elements(value, word_pair<kTokens>(tile.words[s], m, i, place));
        simdgroup_multiply_accumulate(sums.v[4 * s + i], first, value, sums.v[4 * s + i]);
        if (kIsSplit)
          simdgroup_multiply_accumulate(sums.v[4 * s + i], second, value, sums.v[4 * s + i]);
      }
    }
  }
}

// Empties what the query does not see, and makes room for the rest. Any integers do where the scale
// is 0.
template <uint kTokens, bool kIsWhole>
inline void fit_tile(thread MatrixSums& sums, thread ValueTile<kTokens>& tile,
                     thread const Round& round, uint token) {
  const uint keep = kIsWhole ? 0xff : visible_bits(round, token & ~7u) >> token % 8;
  half2 largest = half2(0);
#pragma unroll(2)
  for (uint s = 0; s < uint(kValueGroups); ++s) {
#pragma unroll(4)
    for (uint i = 0; i < kTokens; ++i) {
      if (!kIsWhole)
        tile.scales[s][i] &=
            (keep >> 2 * i & 1 ? 0xffffu : 0u) | (keep >> 2 * i & 2 ? 0xffff0000u : 0u);
      largest = max(largest, as_type<half2>(tile.scales[s][i] & 0x7fff7fff));
    }
  }
  fit_sums(sums, float(max(largest.x, largest.y)));
}

// Adds the values of this simdgroup's tokens of a round, weighted, to `sums`.
template <uint kTokens, bool kIsWhole>
inline void add_tiles(thread MatrixSums& sums, thread const HeadCache& v,
                      thread const BlockIds& blocks, thread const Round& round,
                      thread const Lane& lane, thread const MatrixPlace& place,
                      threadgroup const float* weights) {
  const uint size = 8 * kTokens;
  const uint stride = kAttentionSimdgroups / kValueParts * size;
  const uint head = head_of_row(place.row);
  const uint column = place.pair * 2 * kTokens;
  threadgroup const float* own =
      weights + (head / 4 * kScorePlaces + score_place(column)) * 4 + head % 4;
  const uint first = round.first + lane.simdgroup / kValueParts * size;
  ValueTile<kTokens> tiles[2];  // one is under way
  load_values<kTokens, kIsWhole>(tiles[0], v, blocks, round, first, lane, place);
  for (uint begin = first; begin < round.end; begin += 2 * stride) {
#pragma unroll(2)
    for (uint i = 0; i < 2; ++i) {
      const uint step = begin + i * stride;
      if (step >= round.end) break;
      load_values<kTokens, kIsWhole>(tiles[1 - i], v, blocks, round, step + stride, lane, place);
      fit_tile<kTokens, kIsWhole>(sums, tiles[i], round, step + column);
      MatrixWeights<kTokens> halves;
      split_weights(halves, own + 4 * score_place(step), kLargestWeight * inverse_power(sums.limit),
                    place);
      multiply_values(sums, tiles[i], halves, place);
    }
  }
}

template <uint kTokens>
inline void add_values_by_matrices(thread MatrixSums& sums, thread const HeadCache& v,
                                   thread const BlockIds& blocks, thread const Round& round,
                                   thread const Lane& lane, thread const MatrixPlace& place,
                                   threadgroup const float* weights) {
  if (round.is_whole) {
    add_tiles<kTokens, true>(sums, v, blocks, round, lane, place, weights);
  } else {
    add_tiles<kTokens, false>(sums, v, blocks, round, lane, place, weights);
  }
}
