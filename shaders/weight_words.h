// Slices of a row of weights that come as words, as they lie in memory, so that the next slice can
// be on its way while one is multiplied: it waits in fewer registers than unpacked.
//
// A lane takes the same slice of every block that it works off; which one follows from its place
// among eight lanes. Words are read as wide as a block's alignment allows. Bits are taken out where
// they stand, without a shift for each: what comes so many times as large is made small again,
// exactly.
#pragma once
#include "weight_slices.h"

// Slices of these types have, besides what weight_slices.h says,
//   kShared: steps whose products are added up before factor() and offset() are applied;
//   column(), gap(): where in the block the first four weights of a step begin, and how much later
//     the other four do;
//   kIsFenced: words are loads that nothing is done with before they are unpacked (see mat_vec.h).

inline uint bits_of(half x) { return as_type<ushort>(x); }
inline float half_of(uint bits) { return float(as_type<half>(ushort(bits))); }

// Blocks of 32: twice four weights, so that neighbours' columns of x are side by side.

template <>
struct Slice<BlockQ8_0> {
  enum : uint { kElements = 8, kSteps = 1, kHasOffset = 0, kShared = 1, kIsFenced = 0 };
  uint2 q;
  float scale;

  static uint column(uint place, uint) { return place % 4 * 4; }
  static int gap(uint) { return 16; }
  WeightStep weights(uint) const { return {signed_bytes_of(q.x), signed_bytes_of(q.y)}; }
  float factor(uint) const { return scale; }
  float offset(uint) const { return 0.0f; }
};
template <>
struct Words<BlockQ8_0> {
  enum : uint { kCount = 3 };
  uint at[kCount];
};

inline Words<BlockQ8_0> load_words(device const BlockQ8_0* block, uint place) {
  device const uchar* q = (device const uchar*)block->q + place % 4 * 4;
  return {{load_word(q), load_word(q + 16), bits_of(block->scale)}};
}
inline Slice<BlockQ8_0> unpacked(thread const Words<BlockQ8_0>& words, uint) {
  return {uint2(words.at[0], words.at[1]), half_of(words.at[2])};
}

// Half a block: twice four bytes, eight apart, whose lower and upper halves are four groups of four
// weights, eight columns apart. The columns of lanes of four blocks are 128 bytes apart, in the
// same banks of a cache, so each of these lanes has its groups in another order.
template <>
struct Slice<BlockQ4_0> {
  enum : uint { kElements = 16, kSteps = 2, kHasOffset = 0, kShared = 2, kIsFenced = 1 };
  uint2 q;
  float scale;
  bool is_upper_first;

  // The group at i is i ^ turn(): bit 0 says which bytes, bit 1 which halves of them.
  static uint turn(uint place) { return place / 2; }
  static uint column(uint place, uint step) { return place % 2 * 4 + (step ^ turn(place)) * 8; }
  static int gap(uint place) { return turn(place) < 2 ? 16 : -16; }
  WeightStep weights(uint step) const {
    const uint2 pairs = byte_pairs(q[step]);
    return {nibbles_of(pairs, is_upper_first, 8), nibbles_of(pairs, !is_upper_first, 8)};
  }
  float factor(uint) const { return scale; }
  float offset(uint) const { return 0.0f; }
};
template <>
struct Words<BlockQ4_0> {
  enum : uint { kCount = 5 };
  uint at[kCount];
};

inline Words<BlockQ4_0> load_words(device const BlockQ4_0* block, uint place) {
  device const ushort* q = (device const ushort*)(block->q + place % 2 * 4);
  return {{q[0], q[1], q[4], q[5], bits_of(block->scale)}};
}
inline Slice<BlockQ4_0> unpacked(thread const Words<BlockQ4_0>& words, uint place) {
  const uint turn = Slice<BlockQ4_0>::turn(place);
  const uint2 q = uint2(words.at[0] | words.at[1] << 16, words.at[2] | words.at[3] << 16);
  return {turn % 2 == 0 ? q.xy : q.yx, half_of(words.at[4]), turn >= 2};
}

// Blocks of 256.

// The 16 bytes in front of a Q4_K or Q5_K block: d and dmin, then the twelve bytes of k_scale.
// Returns scale (x) and minimum (y) of sub-block 2 * pair, and of the one after it (z and w).
inline float4 k_scales(uint4 header, uint pair) {
  const bool later = pair >= 2;
  const uint scales =
      select(header.y & 0x3f3f3f3f, (header.w & 0x0f0f0f0f) | (header.y >> 2 & 0x30303030), later);
  const uint minimums = select(header.z & 0x3f3f3f3f,
                               (header.w >> 4 & 0x0f0f0f0f) | (header.z >> 2 & 0x30303030), later);
  const uint shift = pair % 2 * 16;
  const float2 super_scales = float2(as_type<half2>(header.x));
  return float4(super_scales.x * float(scales >> shift & 0xff),
                super_scales.y * float(minimums >> shift & 0xff),
                super_scales.x * float(scales >> shift >> 8 & 0xff),
                super_scales.y * float(minimums >> shift >> 8 & 0xff));
}

// Slices of Q4_K and Q5_K take 16 of the 32 bytes that two sub-blocks share: steps 0 and 1 are of
// the first sub-block, 2 and 3 of the second.
inline uint pair_column(uint part, uint step) {
  return part / 2 * 64 + part % 2 * 16 + step / 2 * 32 + step % 2 * 8;
}
inline float pair_factor(float4 scales, uint step) {
  return step < 2 ? scales.x : scales.z * (1.0f / 16);  // upper halves come 16 times as large
}
inline float pair_offset(float4 scales, uint step) { return step < 2 ? -scales.y : -scales.w; }

// Eight of the 16 bytes. above: bits over the halves, as fields_of() takes them.
struct Halves {
  uint4 pairs;

  WeightStep weights(bool is_upper, uint4 above = uint4(0)) const {
    const uint field = is_upper ? 0xf0 : 0x0f;
    return {fields_of(pairs.xy, field, 0, above.xy), fields_of(pairs.zw, field, 0, above.zw)};
  }
};
inline Halves halves_in(uint first, uint second) {
  return {uint4(byte_pairs(first), byte_pairs(second))};
}

template <>
struct Slice<BlockQ4_K> {
  enum : uint { kElements = 32, kSteps = 4, kHasOffset = 1, kShared = 2, kIsFenced = 0 };
  Halves first;
  Halves second;
  float4 scales;

  static uint column(uint part, uint step) { return pair_column(part, step); }
  static int gap(uint) { return 4; }
  WeightStep weights(uint step) const {
    return step % 2 == 0 ? first.weights(step >= 2) : second.weights(step >= 2);
  }
  float factor(uint step) const { return pair_factor(scales, step); }
  float offset(uint step) const { return pair_offset(scales, step); }
};
template <>
struct Words<BlockQ4_K> {
  enum : uint { kCount = 8 };
  uint at[kCount];
};

// A block is nine times 16 bytes.
inline Words<BlockQ4_K> load_words(device const BlockQ4_K* block, uint part) {
  device const uint4* words = (device const uint4*)block;
  const uint4 q = words[1 + part], header = words[0];
  return {{q.x, q.y, q.z, q.w, header.x, header.y, header.z, header.w}};
}
inline Slice<BlockQ4_K> unpacked(thread const Words<BlockQ4_K>& words, uint part) {
  const uint4 header = uint4(words.at[4], words.at[5], words.at[6], words.at[7]);
  return {halves_in(words.at[0], words.at[1]), halves_in(words.at[2], words.at[3]),
          k_scales(header, part / 2)};
}

template <>
struct Slice<BlockQ5_K> {
  enum : uint { kElements = 32, kSteps = 4, kHasOffset = 1, kShared = 2, kIsFenced = 0 };
  Halves first;
  Halves second;
  uint4 high;  // bits 0 and 1: the fifth bits of the two sub-blocks
  float4 scales;

  static uint column(uint part, uint step) { return pair_column(part, step); }
  static int gap(uint) { return 4; }
  WeightStep weights(uint step) const {
    const uint2 bits = step % 2 == 0 ? high.xy : high.zw;
    const uint distance = step < 2 ? 4 : 7, field = step < 2 ? 0x10 : 0x100;
    const uint4 above = uint4(moved_up(bits.x, distance, field), moved_up(bits.y, distance, field));
    return step % 2 == 0 ? first.weights(step >= 2, above) : second.weights(step >= 2, above);
  }
  float factor(uint step) const { return pair_factor(scales, step); }
  float offset(uint step) const { return pair_offset(scales, step); }
};
template <>
struct Words<BlockQ5_K> {
  enum : uint { kCount = 12 };
  uint at[kCount];
};

// A block is eleven times 16 bytes.
inline Words<BlockQ5_K> load_words(device const BlockQ5_K* block, uint part) {
  device const uint4* words = (device const uint4*)block;
  const uint4 q = words[3 + part], high = words[1 + part % 2], header = words[0];
  return {
      {q.x, q.y, q.z, q.w, high.x, high.y, high.z, high.w, header.x, header.y, header.z, header.w}};
}
inline Slice<BlockQ5_K> unpacked(thread const Words<BlockQ5_K>& words, uint part) {
  const uint pair = part / 2;
  const uint4 high = uint4(words.at[4], words.at[5], words.at[6], words.at[7]) >> (2 * pair);
  const uint4 header = uint4(words.at[8], words.at[9], words.at[10], words.at[11]);
  return {halves_in(words.at[0], words.at[1]), halves_in(words.at[2], words.at[3]), high,
          k_scales(header, pair)};
}
