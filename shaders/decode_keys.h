// Scores of q8_0 and q4_0 keys by matrices (decode_matrices.h): keys are rows, queries columns.
#pragma once
#include "decode_matrices.h"

// Columns of queries in threadgroup memory, for all simdgroups: a lane's elements of the four
// matrices of scale group s are word 32 * s of its own.
struct MatrixQueries {
  threadgroup const uint4* high;  // where halves share a matrix, both
  threadgroup const uint4* low;
  // Of sums of products, twice, as products of two tokens may be one: of scale group s, word 8 * s,
  // and 8 * s + 4 those with lower halves that have matrices of their own.
  threadgroup const float4* starts;
  float2 factor;  // of sums of products with a lane's columns
  float softcap;
};

// Elements of keys go into products with a bias (key_pair), which spares an instruction for each
// two of them: sums of products start at minus the biases' own. That rounds nothing: the upper
// halves of queries are integers of at most kQueryLimit, and sums of such products are below 2^24,
// as 32 elements with their biases add up to less than 2^15 (and if queries of one sign are large
// on average, one bit is lost).
constant constexpr float kQueryLimit = 1024.0f;
constant constexpr float kQueryUnit = 32.0f;  // of these integers, so that lower halves are normal

// Larger heads have too few registers for separate sums, and for a tile ahead.
enum SmallHead : int { kMaxSmallGroups = 4 };
constant bool kIsSmallHead = kScaleGroups <= uint(kMaxSmallGroups);
inline float key_bias(uint i) {
  if (!kIsSmallHead) return 0.0f;
  if (kKType == kKVQ8_0) return i % 2 == 0 ? 1152.0f : 384.0f;
  return i < 2 ? 1032.0f : 72.0f;
}

inline float2 start_of_sums(uint4 queries) {
  simdgroup_float8x8 products = make_filled_simdgroup_matrix<float, 8>(0.0f);
#pragma unroll(4)
  for (uint i = 0; i < uint(kPairsOfChunk); ++i) {
    simdgroup_half8x8 bias;
    simdgroup_half8x8 query;
    set_elements(bias, half2(half(-key_bias(i))));
    set_elements(query, as_type<half2>(queries[i]));
    simdgroup_multiply_accumulate(products, bias, query, products);
  }
  return float2(products.thread_elements()[0], products.thread_elements()[1]);
}

// The largest element of each head's queries, in absolute value. A threadgroup barrier has to
// follow.
inline void find_largest(threadgroup float* largest, device const float* q, uint n_heads,
                         thread const Lane& lane) {
  for (uint g = lane.simdgroup; g < kGroup; g += kAttentionSimdgroups) {
    device const float4* row = (device const float4*)(q + min(g, n_heads - 1) * kHeadDim);
    float4 found = float4(0);
    for (uint i = lane.index; i < kHeadDim / 4; i += 32) found = fmax(found, fabs(row[i]));
    const float of_head = simd_max(fmax(fmax(found.x, found.y), fmax(found.z, found.w)));
    if (lane.index == 0) largest[g] = of_head;
  }
}

// The queries in units of log2(e), times a power of two that fits them to half. Heads beyond
// n_heads repeat the last one. A threadgroup barrier has to follow.
inline void store_queries(thread MatrixQueries& to, threadgroup uint4* stage,
                          threadgroup float4* starts, threadgroup const float* largest,
                          device const float* q, uint n_heads, float scale, thread const Lane& lane,
                          thread const MatrixPlace& place) {
  const uint head = min(first_head(place), n_heads - 1);
  const uint next = min(first_head(place) + 1, n_heads - 1);
  device const float* row = q + head * kHeadDim;
  device const float* other = q + next * kHeadDim;
  const uint first = place.row / 2 * kKVChunk + place.row % 2 * 2;
  const float2 unit = float2(power_of_two(largest[head] * (scale * M_LOG2E_F)),
                             power_of_two(largest[kIsSplit ? next : head] * (scale * M_LOG2E_F)));
  const float2 inverse = float2(inverse_power(unit.x), inverse_power(unit.y));
  for (uint s = lane.simdgroup; s < kScaleGroups; s += kAttentionSimdgroups) {
    uint4 high = uint4(0);
    uint4 low = uint4(0);
#pragma unroll(4)
    for (uint i = 0; i < uint(kPairsOfChunk); ++i) {
      const uint at = first + s * kKVScaleGroup + pair_element(i);
      if (at >= kHeadDim) continue;
      const float2 x = float2(row[at], kIsSplit ? other[at] : row[at]) * (scale * M_LOG2E_F);
      const float2 fitted = x * inverse * (kQueryLimit / 2.0f);
      const float2 whole = rint(fitted);
      const half2 a = half2(kIsSmallHead ? whole * kQueryUnit : fitted * kQueryUnit);
      const half2 b =
          half2(kIsSmallHead ? (fitted - whole) * kQueryUnit : fitted * kQueryUnit - float2(a));
      high[i] = as_type<uint>(kIsSplit ? a : half2(a.x, b.x));
      low[i] = as_type<uint>(b);
    }
    stage[s * 32 + lane.index] = high;
    if (kIsSplit) stage[(kScaleGroups + s) * 32 + lane.index] = low;
    if (!kIsSmallHead) continue;
    const float2 start = start_of_sums(high);
    const float2 of_low = kIsSplit ? start_of_sums(low) : float2(0);
    if (place.row != 0) continue;
    starts[8 * s + place.pair] = float4(start, start);
    if (kIsSplit) starts[8 * s + 4 + place.pair] = float4(of_low, of_low);
  }
  to.high = stage + lane.index;
  to.low = stage + kScaleGroups * 32 + lane.index;
  to.starts = starts + place.pair;
  to.factor = unit * (2.0f / (kQueryLimit * kQueryUnit));
}

// A lane's part of the keys of 8 * kTokens tokens: kTokens tokens of its row.
struct KeyTile {
  uint4 words[kMaxScaleGroups];
  uint2 scales[kMaxScaleGroups];  // of each token a half
};

// Where a lane reads its part of the tokens from `token` of the round on. In place of tokens that
// the query does not see, whose block may be gone, it is some of the query's own block.
struct KeyPlace {
  device const uint4* words;
  device const uchar* scales;
};
template <uint kTokens, bool kIsWhole>
inline void find_keys(thread KeyPlace& to, thread const HeadCache& k, thread const BlockIds& blocks,
                      thread const Round& round, uint token, thread const MatrixPlace& place) {
  uint position = round.begin + token;
  uint block = position / kBlockSize - blocks.first;
  if (!kIsWhole && (token >= round.end || visible_bits(round, token & ~7u) == 0)) {
    position = round.position / kTokens * kTokens;
    block = kOwnBlock;
  }
  // Steps of whole blocks do not change a lane's place within one.
  const Place first = {k.cache, position % kBlockSize};
  const ulong run = ulong(uint(blocks.ids[block])) * k.block_bytes;
  to.words = words_of(first, kKType, min(place.pair, kHeadDim / kKVChunk - 1)) + run / 16;
  to.scales = scales_of(first, kKType, 0) + run;
}

// Reads scale group s. The last one may be a part, beyond which lanes read anything.
template <uint kTokens>
inline void load_group(thread uint4& word, thread uint2& scales, thread const KeyPlace& from,
                       uint s, thread const MatrixPlace& place) {
  const uint last = kHeadDim / kKVChunk - 1;
  const bool is_part = kHeadDim % kKVScaleGroup != 0;
  const uint own = min(place.pair, last);
  word = word_at(from.words + (is_part ? min(4 * s + own, last) - own : 4 * s));
  device const uchar* of_group = from.scales + 16 * s;
  if (kTokens == 2) {
    scales.x = *(device const uint*)of_group;
  } else {
    scales.x = ((device const uint2*)of_group)->x;
    scales.y = ((device const uint2*)of_group)->y;
  }
}

template <uint kTokens, bool kIsWhole>
inline void load_keys(thread KeyTile& tile, thread const HeadCache& k,
                      thread const BlockIds& blocks, thread const Round& round, uint token,
                      thread const MatrixPlace& place) {
  KeyPlace from;
  find_keys<kTokens, kIsWhole>(from, k, blocks, round, token, place);
  EACH_SCALE_GROUP(s) load_group<kTokens>(tile.words[s], tile.scales[s], from, s, place);
}

// As word_pair(), with key_bias(i) added. Of q8_0, every other pair moves to the upper end of the
// mantissa, where the bits are those of 256 + 128 + x.
template <uint kTokens>
inline half2 key_pair(uint4 word, uint token, uint i, thread const MatrixPlace& place) {
  if (!kIsSmallHead) return word_pair<kTokens>(word, token, i, place);
  if (kTokens == 2) {
    const uint bits = word[2 * token + i / 2];
    if (i % 2 == 0) return as_type<half2>((bits & 0x00ff00ff) ^ place.bits_1152);
    return as_type<half2>((bits >> 6 & 0x03fc03fc) ^ (place.bits_1152 - 0x06800680));  // of 384
  }
  const uint bits = word[token] >> i % 2 * 8;
  if (i < 2) return as_type<half2>((bits & 0x000f000f) | place.bits_1024);
  return as_type<half2>((bits & 0x00f000f0) | (place.bits_1024 - 0x10001000));  // of 64
}

// Adds scale group s to the scores of kTokens tokens of a lane's row. Products with the same
// queries follow each other: GPUs may make one of two.
template <uint kTokens>
inline void multiply_keys(thread float2* scores, thread const uint4& word,
                          thread const uint2& scales, uint s, thread const MatrixQueries& queries,
                          thread const MatrixPlace& place) {
  const uint4 high = queries.high[32 * s];
  const uint4 low = kIsSplit ? queries.low[32 * s] : uint4(0);
  const float4 start = kIsSmallHead ? queries.starts[8 * s] : float4(0);
  const float4 start_of_low = kIsSmallHead && kIsSplit ? queries.starts[8 * s + 4] : float4(0);
  simdgroup_float8x8 products[kTokens];
  simdgroup_float8x8 of_low[kTokens];
#pragma unroll(4)
  for (uint m = 0; m < kTokens; ++m) {
    set_elements(products[m], m % 2 == 0 ? start.xy : start.zw);
    set_elements(of_low[m], m % 2 == 0 ? start_of_low.xy : start_of_low.zw);
  }
#pragma unroll(4)
  for (uint i = 0; i < uint(kPairsOfChunk); ++i) {
#pragma unroll(4)
    for (uint m = 0; m < kTokens; ++m) {
      simdgroup_half8x8 key;
      simdgroup_half8x8 query;
      set_elements(key, key_pair<kTokens>(word, m, i, place));
      set_elements(query, as_type<half2>(high[i]));
      simdgroup_multiply_accumulate(products[m], key, query, products[m]);
      if (!kIsSplit) continue;
      set_elements(query, as_type<half2>(low[i]));
      if (kIsSmallHead) {
        simdgroup_multiply_accumulate(of_low[m], key, query, of_low[m]);
      } else {
        simdgroup_multiply_accumulate(products[m], key, query, products[m]);
      }
    }
  }
#pragma unroll(4)
  for (uint m = 0; m < kTokens; ++m) {
    const float scale = float(scale_at(scales[m / 2], m));
    const float x = products[m].thread_elements()[0];
    const float y = products[m].thread_elements()[1];
    if (!kIsSplit) {
      scores[m].x = fma(scale, x + y, scores[m].x);
    } else {
      scores[m].x = fma(scale, x + of_low[m].thread_elements()[0], scores[m].x);
      scores[m].y = fma(scale, y + of_low[m].thread_elements()[1], scores[m].y);
    }
  }
}

// Where a lane's scores of its row stand: of the first two tokens, and of two more where a word has
// four.
struct ScorePlaces {
  threadgroup float* of_two[2];
};
template <uint kTokens>
inline void find_scores(thread ScorePlaces& to, threadgroup float* scores, uint token, uint head) {
  scores += kIsSplit ? head / 4 * kRound * 4 + head % 4 : head;
  to.of_two[0] = scores + score_place(token) * 4;
  to.of_two[1] = kTokens == 2 ? to.of_two[0] : scores + score_place(token + 2) * 4;
}
inline threadgroup float* place_of(thread const ScorePlaces& own, uint token) {
  return own.of_two[token / 2] + token % 2 * kNextScore * 4;
}

// Scores of one tile, to `to`. seen: a bit for each token. Large heads are read here, from `from`:
// no compiler shall have all of their groups in registers.
template <uint kTokens>
inline void score_tile(thread float2& largest, thread const KeyTile& tile,
                       thread const KeyPlace& from, thread const MatrixQueries& queries, uint seen,
                       uint head, thread const MatrixPlace& place, thread const ScorePlaces& to) {
  float2 s[kTokens] = {};
  if (kIsSmallHead) {
    EACH_SCALE_GROUP(i)
    multiply_keys<kTokens>(s, tile.words[i], tile.scales[i], i, queries, place);
  } else {
#pragma unroll(1)
    for (uint i = 0; i < kScaleGroups; ++i) {
      uint4 word;
      uint2 scales;
      load_group<kTokens>(word, scales, from, i, place);
      multiply_keys<kTokens>(s, word, scales, i, queries, place);
    }
  }
#pragma unroll(4)
  for (uint m = 0; m < kTokens; ++m) {
    const bool is_seen = (seen >> m & 1) != 0;
    s[m].x = is_seen && head < kGroup ? s[m].x * queries.factor.x : kMasked;
    s[m].y = is_seen && head + 1 < kGroup ? s[m].y * queries.factor.y : kMasked;
    largest = fmax(largest, s[m]);
    if (kIsSplit) {
      *(threadgroup float2*)place_of(to, m) = s[m];
    } else {
      *place_of(to, m) = s[m].x;
    }
  }
}

// Caps the scores that a lane has written, and finds the largest again.
template <uint kTokens>
inline void cap_scores(thread float2& largest, thread const Round& round, uint first, uint stride,
                       float softcap, thread const MatrixPlace& place, threadgroup float* scores) {
  const uint head = first_head(place);
  largest = float2(kMasked);
  for (uint step = first; step < round.end; step += stride) {
    ScorePlaces places;
    find_scores<kTokens>(places, scores, step + place.row * kTokens, head);
    for (uint m = 0; m < kTokens; ++m) {
      threadgroup float* own = place_of(places, m);
      float2 s = float2(own[0], kIsSplit ? own[1] : kMasked);
      if (s.x != kMasked) s.x = capped(s.x, softcap);
      if (s.y != kMasked) s.y = capped(s.y, softcap);
      own[0] = s.x;
      if (kIsSplit) own[1] = s.y;
      largest = fmax(largest, s);
    }
  }
}

// A simdgroup's first tile of a round, and how far its tiles are apart: the tokens of tiles go to
// simdgroups in turn.
template <uint kTokens>
inline uint first_key(thread const Round& round, thread const Lane& lane) {
  return round.first + lane.simdgroup * 8 * kTokens;
}
template <uint kTokens>
inline uint key_stride() {
  return kAttentionSimdgroups * 8 * kTokens;
}

// Reads a simdgroup's first tile of a round.
template <uint kTokens>
inline void start_keys(thread KeyTile& tile, thread const HeadCache& k,
                       thread const BlockIds& blocks, thread const Round& round,
                       thread const Lane& lane, thread const MatrixPlace& place) {
  const uint token = first_key<kTokens>(round, lane) + place.row * kTokens;
  load_keys<kTokens, false>(tile, k, blocks, round, token, place);
}

inline void start_keys_by_type(thread KeyTile& tile, thread const HeadCache& k,
                               thread const BlockIds& blocks, thread const Round& round,
                               thread const Lane& lane, thread const MatrixPlace& place) {
  if (!kIsSmallHead) return;
  if (kKType == kKVQ8_0) {
    start_keys<2>(tile, k, blocks, round, lane, place);
  } else {
    start_keys<4>(tile, k, blocks, round, lane, place);
  }
}

// Scores of this simdgroup's tokens of a round, to `scores`; in `largest` that of each head. The
// first of two tiles has been read, but for large heads. kIsWhole: of a round of which the query
// sees all, in an even number of tiles.
template <uint kTokens, bool kIsWhole>
inline void score_tiles(thread Scores& largest, thread KeyTile* tiles, thread const HeadCache& k,
                        thread const BlockIds& blocks, thread const MatrixQueries& queries,
                        thread const Round& round, thread const Lane& lane,
                        thread const MatrixPlace& place, threadgroup float* scores) {
  const uint stride = key_stride<kTokens>();
  const uint first = first_key<kTokens>(round, lane);
  const uint head = first_head(place);
  const uint row = place.row * kTokens;
  ScorePlaces own;
  find_scores<kTokens>(own, scores, first + row, head);
  float2 found = float2(kMasked);
  KeyPlace from = {nullptr, nullptr};
  const uint n = kIsWhole ? 2 : 1;
  for (uint step = first; step < round.end; step += n * stride) {
#pragma unroll(2)
    for (uint i = 0; i < n; ++i) {
      const uint token = step + i * stride + row;
      uint seen = 0xff;
      if (!kIsWhole) {
        if (!kIsSmallHead) {
          find_keys<kTokens, false>(from, k, blocks, round, token, place);
        } else if (step != first) {
          load_keys<kTokens, false>(tiles[0], k, blocks, round, token, place);
        }
        seen = visible_bits(round, token & ~7u) >> token % 8;
      } else if (step + (i + 1) * stride < round.end) {
        // A tile ahead. Behind a branch: a compiler would put it off until it is used.
        load_keys<kTokens, true>(tiles[1 - i], k, blocks, round, token + stride, place);
      }
      score_tile<kTokens>(found, tiles[i], from, queries, seen, head, place, own);
      own.of_two[0] += stride * 4;
      own.of_two[1] += stride * 4;
    }
  }
  if (queries.softcap != 0.0f)
    cap_scores<kTokens>(found, round, first, stride, queries.softcap, place, scores);
  EACH_HEAD(g) {
    largest.v[g] = g == head ? found.x : kIsSplit && g == head + 1 ? found.y : kMasked;
  }
}

template <uint kTokens>
inline void score_round_by_matrices(thread Scores& largest, thread KeyTile* tiles,
                                    thread const HeadCache& k, thread const BlockIds& blocks,
                                    thread const MatrixQueries& queries, thread const Round& round,
                                    thread const Lane& lane, thread const MatrixPlace& place,
                                    threadgroup float* scores) {
  const uint two_tiles = 2 * key_stride<kTokens>();
  if (kIsSmallHead && round.is_whole && (round.end - round.first) % two_tiles == 0) {
    score_tiles<kTokens, true>(largest, tiles, k, blocks, queries, round, lane, place, scores);
  } else {
    score_tiles<kTokens, false>(largest, tiles, k, blocks, queries, round, lane, place, scores);
  }
}
