// What a lane of a mat-vec takes of a row of weights at a time: a slice.
//
// Lane i of a simdgroup reads slices i, i + 32, ... of a row, so that neighbours read neighbouring
// bytes. A slice comes as kSteps times eight weights: `factor * q + offset`, of which q is
// unpacked and the rest is applied to a sum of products. The first four weights of a step belong to
// the columns from column() on, the other four begin kGap columns later. Words are read as wide as
// a block's alignment allows: 16 bytes for plain numbers. Q8_0, Q4_0, Q4_K and Q5_K are in
// weight_words.h.
#pragma once
#include "dequantize.h"
#include "small_integers.h"

struct WeightStep {
  float4 first;
  float4 second;
};

// kElements: weights of a slice; kHasOffset: offset() is not always zero.
template <typename Block>
struct Slice;

// A slice as it lies in memory; of types that weight_words.h does not name there is none.
template <typename Block>
struct Words {
  enum : uint { kCount = 0 };
};

inline uint join(ushort low, ushort high) { return uint(low) | uint(high) << 16; }

// Four and eight bytes at an address of even alignment.
inline uint load_word(device const uchar* from) {
  device const ushort* half_words = (device const ushort*)from;
  return join(half_words[0], half_words[1]);
}
inline uint2 load_words(device const uchar* from) {
  return uint2(load_word(from), load_word(from + 4));
}

// Plain numbers: rows of a multiple of eight.

template <>
struct Slice<BlockF32> {
  enum : uint { kElements = 8, kSteps = 1, kGap = 4, kHasOffset = 0 };
  float4 first;
  float4 second;

  static uint column(uint slice, uint) { return slice * 8; }
  WeightStep weights(uint) const { return {first, second}; }
  float factor(uint) const { return 1.0f; }
  float offset(uint) const { return 0.0f; }
};

inline Slice<BlockF32> load_slice(device const BlockF32* row, uint slice) {
  device const float4* from = (device const float4*)row + slice * 2;
  return {from[0], from[1]};
}

template <>
struct Slice<BlockF16> {
  enum : uint { kElements = 8, kSteps = 1, kGap = 4, kHasOffset = 0 };
  uint4 q;

  static uint column(uint slice, uint) { return slice * 8; }
  WeightStep weights(uint) const {
    return {float4(as_type<half4>(q.xy)), float4(as_type<half4>(q.zw))};
  }
  float factor(uint) const { return 1.0f; }
  float offset(uint) const { return 0.0f; }
};

inline Slice<BlockF16> load_slice(device const BlockF16* row, uint slice) {
  return {((device const uint4*)row)[slice]};
}

template <>
struct Slice<BlockBF16> {
  enum : uint { kElements = 8, kSteps = 1, kGap = 4, kHasOffset = 0 };
  uint4 q;

  static uint column(uint slice, uint) { return slice * 8; }
  static float4 expand(uint2 pairs) {
    return float4(as_type<float>(pairs.x << 16), as_type<float>(pairs.x & 0xffff0000),
                  as_type<float>(pairs.y << 16), as_type<float>(pairs.y & 0xffff0000));
  }
  WeightStep weights(uint) const { return {expand(q.xy), expand(q.zw)}; }
  float factor(uint) const { return 1.0f; }
  float offset(uint) const { return 0.0f; }
};

inline Slice<BlockBF16> load_slice(device const BlockBF16* row, uint slice) {
  return {((device const uint4*)row)[slice]};
}

// Blocks of 32.

// Eight bytes of halves are 16 weights: step s takes the halves of four bytes, which are 16 columns
// apart.
inline uint halves_column(uint slice, uint step) {
  return slice / 2 * 32 + slice % 2 * 8 + step * 4;
}

template <>
struct Slice<BlockQ4_1> {
  enum : uint { kElements = 16, kSteps = 2, kGap = 16, kHasOffset = 1 };
  uint2 q;
  half2 scales;

  static uint column(uint slice, uint step) { return halves_column(slice, step); }
  WeightStep weights(uint step) const {
    return {halves_of(q[step], 0), halves_of(q[step] >> 4, 0)};
  }
  float factor(uint) const { return float(scales.x); }
  float offset(uint) const { return float(scales.y); }
};

// A block is five words.
inline Slice<BlockQ4_1> load_slice(device const BlockQ4_1* row, uint slice) {
  device const uint* block = (device const uint*)row + slice / 2 * 5;
  device const uint* q = block + 1 + slice % 2 * 2;
  return {uint2(q[0], q[1]), as_type<half2>(block[0])};
}

// The lowest four bits of `bits` as the fifth bits of four bytes.
inline uint fifth_bits(uint bits) {
  return (bits & 1) << 4 | (bits & 2) << 11 | (bits & 4) << 18 | (bits & 8) << 25;
}

// Step `step` of a slice of Q5_0 or Q5_1: bits 0 to 7 of `high` belong to the low halves and bits
// 16 to 23 to the high ones.
inline WeightStep five_bits(uint2 q, uint high, uint step, uint bias) {
  const uint low = (q[step] & 0x0f0f0f0f) | fifth_bits(high >> (4 * step));
  const uint upper = (q[step] >> 4 & 0x0f0f0f0f) | fifth_bits(high >> (4 * step + 16));
  return {bytes_of(low, bias), bytes_of(upper, bias)};
}

template <>
struct Slice<BlockQ5_0> {
  enum : uint { kElements = 16, kSteps = 2, kGap = 16, kHasOffset = 0 };
  uint2 q;
  uint high;
  half scale;

  static uint column(uint slice, uint step) { return halves_column(slice, step); }
  WeightStep weights(uint step) const { return five_bits(q, high, step, 16); }
  float factor(uint) const { return float(scale); }
  float offset(uint) const { return 0.0f; }
};

inline Slice<BlockQ5_0> load_slice(device const BlockQ5_0* row, uint slice) {
  device const BlockQ5_0* block = row + slice / 2;
  const uint first = slice % 2 * 8;
  return {load_words(block->q + first), join(block->high[0], block->high[1]) >> first,
          block->scale};
}

template <>
struct Slice<BlockQ5_1> {
  enum : uint { kElements = 16, kSteps = 2, kGap = 16, kHasOffset = 1 };
  uint2 q;
  uint high;
  half2 scales;

  static uint column(uint slice, uint step) { return halves_column(slice, step); }
  WeightStep weights(uint step) const { return five_bits(q, high, step, 0); }
  float factor(uint) const { return float(scales.x); }
  float offset(uint) const { return float(scales.y); }
};

// A block is three pairs of words.
inline Slice<BlockQ5_1> load_slice(device const BlockQ5_1* row, uint slice) {
  device const uint2* block = (device const uint2*)row + slice / 2 * 3;
  const uint2 header = block[0];
  return {block[1 + slice % 2], header.y >> (slice % 2 * 8), as_type<half2>(header.x)};
}

// Blocks of 256.

// Slices of Q2_K, Q3_K and Q6_K take eight of the 32 places of a group of 128, in all four rows.
inline uint row_column(uint slice, uint step) {
  return slice / 4 * 128 + slice % 4 * 8 + step * 32;
}

template <>
struct Slice<BlockQ2_K> {
  enum : uint { kElements = 32, kSteps = 4, kGap = 4, kHasOffset = 1 };
  uint2 q;
  uint4 scales;  // of each row, in the lowest byte
  half2 super_scales;

  static uint column(uint slice, uint step) { return row_column(slice, step); }
  WeightStep weights(uint step) const {
    const uint2 two_bits = q >> (2 * step) & 0x03030303;
    return {bytes_of(two_bits.x, 0), bytes_of(two_bits.y, 0)};
  }
  float factor(uint step) const { return float(super_scales.x) * float(scales[step] & 15); }
  float offset(uint step) const { return -float(super_scales.y) * float(scales[step] >> 4 & 15); }
};

// A block is 21 words: 4 of scales, 16 of elements, the scales of the scales.
inline Slice<BlockQ2_K> load_slice(device const BlockQ2_K* row, uint slice) {
  device const uint* block = (device const uint*)row + slice / 8 * 21;
  const uint group = slice / 4 % 2, first = slice % 4 * 2;
  device const uint* q = block + 4 + group * 8 + first;
  const uint shift = first / 4 * 8;  // sub-blocks of 16: a row has two
  const uint low = block[group * 2] >> shift, high = block[group * 2 + 1] >> shift;
  return {uint2(q[0], q[1]), uint4(low & 0xff, low >> 16 & 0xff, high & 0xff, high >> 16 & 0xff),
          as_type<half2>(block[20])};
}

template <>
struct Slice<BlockQ3_K> {
  enum : uint { kElements = 32, kSteps = 4, kGap = 4, kHasOffset = 0 };
  uint2 q;
  uint2 high;   // bit r: row r of the group
  int4 scales;  // of each row
  half scale;

  static uint column(uint slice, uint step) { return row_column(slice, step); }
  WeightStep weights(uint step) const {
    const uint2 bits = (q >> (2 * step) & 0x03030303) | (high >> step & 0x01010101) << 2;
    return {bytes_of(bits.x, 4), bytes_of(bits.y, 4)};
  }
  float factor(uint step) const { return float(scale) * float(scales[step]); }
  float offset(uint) const { return 0.0f; }
};

inline Slice<BlockQ3_K> load_slice(device const BlockQ3_K* row, uint slice) {
  device const BlockQ3_K* block = row + slice / 8;
  const uint group = slice / 4 % 2, first = slice % 4 * 8;
  const uint sub = group * 8 + first / 16;
  return {load_words(block->q + group * 32 + first),
          load_words(block->high + first) >> (4 * group) & 0x0f0f0f0f,
          int4(q3_k_scale(block->scales, sub), q3_k_scale(block->scales, sub + 2),
               q3_k_scale(block->scales, sub + 4), q3_k_scale(block->scales, sub + 6)),
          block->scale};
}

template <>
struct Slice<BlockQ6_K> {
  enum : uint { kElements = 32, kSteps = 4, kGap = 4, kHasOffset = 0 };
  uint4 low;  // xy: rows 0 and 2, zw: rows 1 and 3
  uint2 high;
  float4 scales;  // of each row

  static uint column(uint slice, uint step) { return row_column(slice, step); }
  WeightStep weights(uint step) const {
    const uint2 words = (step % 2 == 0 ? low.xy : low.zw) >> (step / 2 * 4) & 0x0f0f0f0f;
    const uint2 bits = words | (high >> (2 * step) & 0x03030303) << 4;
    return {bytes_of(bits.x, 32), bytes_of(bits.y, 32)};
  }
  float factor(uint step) const { return scales[step]; }
  float offset(uint) const { return 0.0f; }
};

inline Slice<BlockQ6_K> load_slice(device const BlockQ6_K* row, uint slice) {
  device const BlockQ6_K* block = row + slice / 8;
  const uint group = slice / 4 % 2, first = slice % 4 * 8;
  device const uchar* low = block->low + group * 64 + first;
  device const char* scales = block->scales + group * 8 + first / 16;
  const float scale = float(block->scale);
  return {uint4(load_words(low), load_words(low + 32)),
          load_words(block->high + group * 32 + first),
          float4(scale * float(scales[0]), scale * float(scales[2]), scale * float(scales[4]),
                 scale * float(scales[6]))};
}
