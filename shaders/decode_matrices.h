// Decode attention over q8_0 and q4_0 K or V, by products of 8x8 matrices of half: a fraction of
// the instructions per element that lanes of floats need.
//
// The integers are exact in half, products of matrices add in float, and scales multiply sums of
// products (K) or weights (V). What is left to round, queries and weights, goes in as two halves
// that keep 22 bits together (Markidis et al., "NVIDIA Tensor Core Programmability, Performance &
// Precision", 2018): eight columns are four heads twice; of more heads, two matrices are added.
//
// A lane holds one row and two neighbouring columns of a matrix. Of keys its row picks the word of
// 16 bytes that it reads, so which tokens, its columns which chunk of a scale group. Taken two at a
// time the word's integers are the lane's elements of kTokens * 4 matrices: nothing moves between
// lanes. Of values columns pick tokens, rows elements (decode_values.h).
#pragma once
#include "decode_state.h"
#include "matrix_lanes.h"

enum MatrixShape : int {
  kMaxScaleGroups = kKVMaxHeadDim / kKVScaleGroup,
  kPairsOfChunk = kKVChunk / 2,
};
constant uint kScaleGroups = kv_scale_groups(kHeadDim);
constant bool kIsSplit = kGroup > 4;  // the two halves of queries and weights are two matrices

#define EACH_SCALE_GROUP(s)                                                      \
  _Pragma("clang loop unroll(full)") for (uint s = 0; s < uint(kMaxScaleGroups); \
                                          ++s) if (s < kScaleGroups)

// The row of a matrix of which a lane has columns 2 * pair and 2 * pair + 1.
struct MatrixPlace {
  uint row;
  uint pair;
  uint bits_1024;  // of two halves
  uint bits_1152;
};

// `stage` is the simdgroup's, 68 elements. The last ones keep constants from the compiler: with
// their bits in registers, a mask and an `or` are one instruction where instructions hold one
// constant.
inline void find_place(thread MatrixPlace& place, threadgroup half* stage, uint lane) {
  store_indices(stage, lane);
  if (lane < 4) stage[64 + lane] = half(lane < 2 ? 1024 : 1152);
  simdgroup_barrier(mem_flags::mem_threadgroup);
  read_indices(place.row, place.pair, stage);
  place.bits_1024 = ((threadgroup const uint*)stage)[32];
  place.bits_1152 = ((threadgroup const uint*)stage)[33];
}

// The first of the two heads that a lane's elements of a row of scores belong to; they belong to
// one where halves share a matrix.
inline uint first_head(thread const MatrixPlace& place) {
  return kIsSplit ? 2 * place.pair : place.pair;
}

// Elements pair_element(i) and pair_element(i) + 2 of a token's chunk: the bits of the half 1024,
// with x in them, are those of 1024 + x.
inline uint pair_element(uint i) { return i / 2 * 4 + i % 2; }
template <uint kTokens>
inline half2 word_pair(uint4 word, uint token, uint i, thread const MatrixPlace& place) {
  if (kTokens == 2) {  // q8_0: turning the sign bit around adds 128
    const uint bits = word[2 * token + i / 2] >> i % 2 * 8;
    return as_type<half2>((bits & 0x00ff00ff) ^ place.bits_1152) - half2(half(1024 + 128));
  }
  const uint bits = word[token] >> i % 2 * 8;
  if (i < 2) return as_type<half2>((bits & 0x000f000f) | place.bits_1024) - half2(half(1024 + 8));
  return fma(as_type<half2>((bits & 0x00f000f0) | place.bits_1024), half2(half(0.0625f)),
             half2(half(-1024 / 16 - 8)));
}

// A power of two that is at most x, and above x / 2; 0 for 0.
inline float power_of_two(float x) { return as_type<float>(as_type<uint>(x) & 0x7f800000); }
inline float inverse_power(float power) {
  return as_type<float>(0x7f000000 - as_type<uint>(power));
}

// Blocks of a partition in threadgroup memory, so that no step waits for the table: where one waits
// for a load of device memory it may wait for those after it, too.
struct BlockIds {
  threadgroup const int* ids;  // of the partition's blocks; last the one of the query
  uint first;                  // block of the partition's first token
};
constant uint kOwnBlock = kPartition / kKVTileTokens + 1;

// The first id that a thread stores, and the query's own: read long before, so that what else a
// kernel reads first is under way with them.
inline int2 read_blocks(device const int* blocks, uint begin, uint position, uint thread_index) {
  const uint last = position / kBlockSize;
  return int2(blocks[min(begin / kBlockSize + thread_index, last)], blocks[last]);
}

// A threadgroup barrier has to follow.
inline void store_blocks(thread BlockIds& to, threadgroup int* ids, device const int* blocks,
                         int2 read, uint begin, uint position, uint thread_index) {
  to.ids = ids;
  to.first = begin / kBlockSize;
  const uint last = min(begin + kPartition - 1, position) / kBlockSize;
  if (to.first + thread_index <= last) ids[thread_index] = read.x;
  for (uint i = to.first + thread_index + kAttentionThreads; i <= last; i += kAttentionThreads)
    ids[i - to.first] = blocks[i];
  if (thread_index == 0) ids[kOwnBlock] = read.y;
}

// A place in a block.
struct Place {
  device const uchar* run;
  uint token;  // of the block
};
inline device const uint4* words_of(thread const Place& place, uint type, uint chunk) {
  return (device const uint4*)(place.run + kv_chunk_offset(type, kHeadDim, place.token, chunk));
}
inline device const uchar* scales_of(thread const Place& place, uint type, uint group) {
  return place.run + kv_scale_offset(type, kHeadDim, kBlockSize, place.token, group);
}

// Element by element: what is copied as a whole may be read in halves.
inline uint4 word_at(device const uint4* from) {
  const uint4 word = *from;
  return uint4(word.x, word.y, word.z, word.w);
}
inline half scale_at(uint word, uint i) { return as_type<half2>(word)[i % 2]; }
