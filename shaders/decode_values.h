// Sums of weighted q8_0 and q4_0 values by matrices (decode_matrices.h): values, whose rows are
// elements of a head and whose columns are tokens, times weights, whose columns are heads.
//
// Scales go into the weights, so the rows of a matrix are elements of one scale group: row r of
// matrix i is element 4 * r + i. A lane then owns the same half of a chunk of several tokens, which
// lie side by side, and all matrices of a group share their weights.
#pragma once
#include "decode_matrices.h"

// A simdgroup adds values of four scale groups; what groups there are more go to its neighbour.
enum ValueShape : int {
  kValueGroups = 4,
  kValueTokens = 16,  // of a tile: two of each row of weights
};
constant uint kValueParts = kScaleGroups <= 4 ? 1 : 2;
constant constexpr float kLargestWeight = 32768.0f;  // a half

enum SumsShape : int { kSums = kValueGroups * 4 };  // matrices

#define EACH_VALUE_GROUP(s)                                                   \
  _Pragma("clang loop unroll(full)") for (uint s = 0; s < uint(kValueGroups); \
                                          ++s) if (s < kScaleGroups)

// Rows as those of values, columns as those of weights.
struct MatrixSums {
  thread simdgroup_float8x8* v;  // [kSums]
  float limit;  // of scales: a power of two, 2 or more. Weights are times kLargestWeight / limit.
};

// By column.
inline void scale_sums(thread MatrixSums& sums, float2 factors) {
  EACH_VALUE_GROUP(s) {
#pragma unroll(4)
    for (uint i = 4 * s; i < 4 * s + 4; ++i) {
      sums.v[i].thread_elements()[0] *= factors.x;
      sums.v[i].thread_elements()[1] *= factors.y;
    }
  }
}

inline void start_sums(thread MatrixSums& sums) {
#pragma unroll(16)
  for (uint i = 0; i < uint(kSums); ++i) sums.v[i] = make_filled_simdgroup_matrix<float, 8>(0.0f);
  sums.limit = 2.0f;
}

// The heads of a lane's columns. Two columns may be halves of one.
constant uint kHeadsOfLane = kIsSplit ? 2 : 1;

// A lane's part of the values of a tile: 4 elements each of tokens 4 * pair to 4 * pair + 3, and
// scales of tokens 2 * row and 2 * row + 1.
struct ValueTile {
  uint words[kValueGroups][4];
  uint scales[kValueGroups];  // two halves
};

// Tokens of a tile that surely are of one block.
constant uint kSpan = kBlockSize % kValueTokens == 0 ? kValueTokens : kKVTileTokens;

// What a lane reads, and how.
struct ValueLane {
  device const uchar* words;   // those of the head in the cache, its own part of a span
  device const uchar* scales;  // the same
  uint block_bytes;
  uint word_span;   // token of the tile where its own span begins
  uint scale_span;  // the same
  uint bits;        // of q4_0: of two elements, whether they are low or high halves of bytes
  half2 bias;       // what their bits in those of the half 1024 are too large by
};

inline void find_values(thread ValueLane& to, thread const HeadCache& v, thread const Lane& lane,
                        thread const MatrixPlace& place) {
  const uint token = 4 * place.pair;
  const uint chunk = lane.simdgroup % kValueParts * kValueGroups * 4 + place.row / 2;
  const bool is_second = place.row % 2 != 0;
  to.word_span = token / kSpan * kSpan;
  to.words = v.cache +
             kv_chunk_offset(kVType, kHeadDim, token % kSpan, min(chunk, kHeadDim / kKVChunk - 1));
  if (kVType == kKVQ8_0 && is_second) to.words += 4;
  to.scale_span = 2 * place.row / kSpan * kSpan;
  to.scales = v.cache + kv_scale_offset(kVType, kHeadDim, kBlockSize, 2 * place.row % kSpan,
                                        lane.simdgroup % kValueParts * kValueGroups);
  to.block_bytes = v.block_bytes;
  to.bits = is_second ? 0x00f000f0 : 0x000f000f;
  to.bias = half2(is_second ? half(1024 + 128) : half(1024 + 8));
}

// Where the span from `token` of the round on lies.
struct SpanPlace {
  ulong run;   // bytes from the cache's first to the block's
  uint token;  // of the block
};
template <bool kIsWhole>
inline void find_span(thread SpanPlace& place, uint block_bytes, thread const BlockIds& blocks,
                      thread const Round& round, uint token) {
  uint position = round.begin + min(token, round.end - kSpan);
  uint block = position / kBlockSize - blocks.first;
  if (!kIsWhole && (token >= round.end || !is_visible(round, token, kSpan))) {
    position = round.position;
    block = kOwnBlock;
  }
  place.run = ulong(uint(blocks.ids[block])) * block_bytes;
  place.token = position / kSpan % (kBlockSize / kSpan) * kSpan;
}

// Reads a lane's part. The last scale group may be a part, and some are beyond the head: there
// lanes read anything.
template <bool kIsWhole>
inline void load_values(thread ValueTile& tile, thread const ValueLane& from,
                        thread const BlockIds& blocks, thread const Round& round, uint step,
                        thread const Lane& lane, thread const MatrixPlace& place) {
  const uint first = lane.simdgroup % kValueParts * kValueGroups;
  const bool is_part = kHeadDim % (kKVScaleGroup * kValueGroups) != 0;
  const uint last = kHeadDim / kKVChunk - 1;
  const uint own = 4 * first + place.row / 2;
  SpanPlace at;
  find_span<kIsWhole>(at, from.block_bytes, blocks, round, step + from.word_span);
  device const uchar* words = from.words + at.run + kv_chunk_offset(kVType, kHeadDim, at.token, 0);
  find_span<kIsWhole>(at, from.block_bytes, blocks, round, step + from.scale_span);
  device const uchar* scales = from.scales + at.run + at.token / kKVTileTokens * kScaleGroups * 16;
  EACH_VALUE_GROUP(s) {
    const uint chunk = is_part ? min(own + 4 * s, last) - min(own, last) : 4 * s;
    device const uchar* word = words + chunk * 16;
    if (kVType == kKVQ8_0) {
      device const uchar* next = word + kHeadDim / kKVChunk * 16;
      tile.words[s][0] = *(device const uint*)word;
      tile.words[s][1] = *(device const uint*)(word + 8);
      tile.words[s][2] = *(device const uint*)next;
      tile.words[s][3] = *(device const uint*)(next + 8);
    } else {
      const uint4 of_tokens = *(device const uint4*)word;
#pragma unroll(4)
      for (uint i = 0; i < 4; ++i) tile.words[s][i] = of_tokens[i];
    }
    const uint group = is_part ? min(first + s, kScaleGroups - 1) - first : s;
    tile.scales[s] = *(device const uint*)(scales + 16 * group);
  }
}

// Element 4 * row + i of two tokens, whose bytes a and b hold.
inline half2 value_pair(uint a, uint b, uint i, thread const ValueLane& from,
                        thread const MatrixPlace& place) {
  const ushort2 both = ushort2(as_type<ushort2>(a)[i / 2], as_type<ushort2>(b)[i / 2]);
  const uint bytes = as_type<uint>(both) >> i % 2 * 8;
  if (kVType == kKVQ8_0)
    return as_type<half2>((bytes & 0x00ff00ff) ^ place.bits_1152) - half2(half(1024 + 128));
  return as_type<half2>((bytes & from.bits) | place.bits_1024) - from.bias;
}

// Weights of a lane's row as halves: of each head of the lane two tokens.
struct MatrixWeights {
  half2 high[2];
  half2 low[2];
};

inline void split_weights(thread MatrixWeights& to, threadgroup const float* weights, float unit) {
#pragma unroll(2)
  for (uint h = 0; h < kHeadsOfLane; ++h) {
    const float2 x = float2(weights[h], weights[4 * kNextScore + h]) * unit;
    to.high[h] = half2(x);
    to.low[h] = half2(x - float2(to.high[h]));
  }
}

// Adds values times weights times scales. A product of halves is rounded; a multiply-add tells by
// how much.
inline void multiply_values(thread MatrixSums& sums, thread const ValueTile& tile,
                            thread const MatrixWeights& weights, thread const ValueLane& from,
                            thread const MatrixPlace& place) {
  EACH_VALUE_GROUP(s) {
    const half2 scale = as_type<half2>(tile.scales[s]);
    half2 product[2];
    half2 rest[2];
#pragma unroll(2)
    for (uint h = 0; h < kHeadsOfLane; ++h) {
      product[h] = weights.high[h] * scale;
      rest[h] = fma(weights.low[h], scale, fma(weights.high[h], scale, -product[h]));
    }
#pragma unroll(2)
    for (uint m = 0; m < 2; ++m) {
      simdgroup_half8x8 first;
      simdgroup_half8x8 second;
      if (kIsSplit) {
        set_elements(first, half2(product[0][m], product[1][m]));
        set_elements(second, half2(rest[0][m], rest[1][m]));
      } else {
        set_elements(first, half2(product[0][m], rest[0][m]));
      }
#pragma unroll(4)
      for (uint i = 0; i < 4; ++i) {
        simdgroup_half8x8 value;
        set_elements(value, value_pair(tile.words[s][m], tile.words[s][m + 2], i, from, place));
        simdgroup_multiply_accumulate(sums.v[4 * s + i], value, first, sums.v[4 * s + i]);
        if (kIsSplit)
          simdgroup_multiply_accumulate(sums.v[4 * s + i], value, second, sums.v[4 * s + i]);
      }
    }
  }
}

// Empties what the query does not see. Any integers do where the scale is 0.
inline void mask_values(thread ValueTile& tile, thread const Round& round, uint token) {
  const uint seen = visible_bits(round, token & ~7u) >> token % 8;
  const uint keep = (seen & 1 ? 0xffffu : 0u) | (seen & 2 ? 0xffff0000u : 0u);
  EACH_VALUE_GROUP(s) tile.scales[s] &= keep;
}

// Scales of common models are below 2: then the highest bit of no half's exponent is set.
inline bool any_large(uint bits_of_scales) { return simd_any((bits_of_scales & 0x40004000) != 0); }

// All bits that are set in a lane's scales.
inline uint bits_of_scales(thread const ValueTile& tile) {
  uint bits = 0;
  EACH_VALUE_GROUP(s) bits |= tile.scales[s];
  return bits;
}

// Makes room for a tile's scales.
inline void fit_sums(thread MatrixSums& sums, thread const ValueTile& tile) {
  if (!any_large(bits_of_scales(tile))) return;
  half2 largest = half2(0);
  EACH_VALUE_GROUP(s) largest = max(largest, as_type<half2>(tile.scales[s] & 0x7fff7fff));
  const float limit = power_of_two(simd_max(float(max(largest.x, largest.y)))) * 2.0f;
  if (limit <= sums.limit) return;
  scale_sums(sums, float2(sums.limit * inverse_power(limit)));
  sums.limit = limit;
}

// A simdgroup's first tile of a round, and how far tiles are apart: the tokens of tiles go to
// simdgroups in turn.
constant uint kTileStride = kAttentionSimdgroups / kValueParts * kValueTokens;
inline uint first_tile(thread const Round& round, thread const Lane& lane) {
  return round.first + lane.simdgroup / kValueParts * kValueTokens;
}

// Reads a simdgroup's first tile.
inline void start_values(thread ValueTile& tile, thread const ValueLane& from,
                         thread const BlockIds& blocks, thread const Round& round,
                         thread const Lane& lane, thread const MatrixPlace& place) {
  load_values<false>(tile, from, blocks, round, first_tile(round, lane), lane, place);
}

// A partition's only round starts its sums, and can start them again.
constant bool kIsOneRound = kRound == kPartition;

// Adds a tile's values, weighted, to `sums`, and reads the next one. `weights` are the lane's of
// its tokens. Of a whole round that can be done again all scales are taken to fit; `bits` gathers
// them.
template <bool kIsWhole>
inline void add_tile(thread MatrixSums& sums, thread uint& bits, thread ValueTile& tile,
                     thread ValueTile& next, thread const ValueLane& from,
                     thread const BlockIds& blocks, thread const Round& round, uint step,
                     thread const Lane& lane, thread const MatrixPlace& place,
                     threadgroup const float* weights) {
  load_values<kIsWhole>(next, from, blocks, round, step + kTileStride, lane, place);
  if (!kIsWhole) mask_values(tile, round, step + 2 * place.row);
  if (kIsWhole && kIsOneRound) {
    bits |= bits_of_scales(tile);
  } else {
    fit_sums(sums, tile);
  }
  MatrixWeights halves;
  split_weights(halves, weights, kLargestWeight * inverse_power(sums.limit));
  multiply_values(sums, tile, halves, from, place);
}

// Adds the values of this simdgroup's tokens of a round, weighted, to `sums`. The first tile has
// been read. Returns whether scales of a whole round were too large, so that it has to be done
// again: to ask once takes less time than to fit every tile, but only a partition's only round has
// sums that can be thrown away.
template <bool kIsWhole>
inline bool add_tiles(thread MatrixSums& sums, thread ValueTile* tiles,
                      thread const ValueLane& from, thread const BlockIds& blocks,
                      thread const Round& round, thread const Lane& lane,
                      thread const MatrixPlace& place, threadgroup const float* weights) {
  uint bits = 0;
  const uint first = first_tile(round, lane);
  for (uint step = first; step < round.end; step += 2 * kTileStride) {
    threadgroup const float* own = weights + (step - first) * 4;
    add_tile<kIsWhole>(sums, bits, tiles[0], tiles[1], from, blocks, round, step, lane, place, own);
    if (step + kTileStride >= round.end) break;
    add_tile<kIsWhole>(sums, bits, tiles[1], tiles[0], from, blocks, round, step + kTileStride,
                       lane, place, own + kTileStride * 4);
  }
  return any_large(bits);
}

inline void add_values_by_matrices(thread MatrixSums& sums, thread ValueTile* tiles,
                                   thread const ValueLane& from, thread const BlockIds& blocks,
                                   thread const Round& round, thread const Lane& lane,
                                   thread const MatrixPlace& place,
                                   threadgroup const float* weights) {
  const uint head = first_head(place);
  threadgroup const float* own = weights + head / 4 * kRound * 4 + head % 4 +
                                 score_place(first_tile(round, lane) + 2 * place.row) * 4;
  if (round.is_whole) {
    if (!add_tiles<true>(sums, tiles, from, blocks, round, lane, place, own)) return;
    start_sums(sums);
    start_values(tiles[0], from, blocks, round, lane, place);
  }
  add_tiles<false>(sums, tiles, from, blocks, round, lane, place, own);
}
