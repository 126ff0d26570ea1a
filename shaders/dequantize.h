// Weights in the GGUF format: how a block lies in memory, and 16 of its elements as floats.
//
// A block stores consecutive elements of a row. Blocks follow each other without gaps, so that a
// block is aligned to its struct's alignment and no more. Elements are small integers q, expanded
// as `scale * q - minimum`; the order of these operations is that of the format's reference.
#pragma once
#include <metal_stdlib>
using namespace metal;

// Plain numbers. The integers are bit patterns: bfloat needs no support by the GPU this way.
struct BlockF32 {
  enum : uint { kElements = 1 };
  float value;
};
struct BlockF16 {
  enum : uint { kElements = 1 };
  half value;
};
struct BlockBF16 {
  enum : uint { kElements = 1 };
  ushort value;
};

// 32 elements under one scale. With 4 bits each, the low halves of 16 bytes are elements 0 to 15
// and the high halves elements 16 to 31; bit i of `high` is the fifth bit of element i.
struct BlockQ8_0 {
  enum : uint { kElements = 32 };
  half scale;
  char q[32];
};
struct BlockQ4_0 {  // q - 8
  enum : uint { kElements = 32 };
  half scale;
  uchar q[16];
};
struct BlockQ4_1 {
  enum : uint { kElements = 32 };
  half scale;
  half offset;  // added
  uchar q[16];
};
struct BlockQ5_0 {  // q - 16
  enum : uint { kElements = 32 };
  half scale;
  ushort high[2];
  uchar q[16];
};
struct BlockQ5_1 {
  enum : uint { kElements = 32 };
  half scale;
  half offset;  // added
  uint high;
  uchar q[16];
};

// 256 elements in sub-blocks with small scales of their own, which `scale` multiplies. A "row" is
// one of the runs of 32 elements that share 32 bytes.
struct BlockQ2_K {  // 16 sub-blocks of 16; row r of a group of 128 sits in bits 2 r of 32 bytes
  enum : uint { kElements = 256 };
  uchar scales[16];  // low half: scale, high half: minimum
  uchar q[64];
  half scale;
  half minimum;
};
struct BlockQ3_K {  // 16 sub-blocks of 16; q - 4 with the third bit in `high`
  enum : uint { kElements = 256 };
  uchar high[32];    // bit r of byte i: row r of 8
  uchar q[64];       // as in Q2_K
  uchar scales[12];  // 6 bits each, less 32: low four in bytes 0 to 7, high two in bytes 8 to 11
  half scale;
};
struct BlockQ4_K {  // 8 sub-blocks of 32; the halves of each 32 bytes are two of them
  enum : uint { kElements = 256 };
  half scale;
  half minimum;
  uchar scales[12];  // see k_scale
  uchar q[128];
};
struct BlockQ5_K {
  enum : uint { kElements = 256 };
  half scale;
  half minimum;
  uchar scales[12];  // see k_scale
  uchar high[32];    // bit r of byte i: the fifth bit of element i of sub-block r
  uchar q[128];      // as in Q4_K
};
struct BlockQ6_K {  // 16 sub-blocks of 16; q - 32
  enum : uint { kElements = 256 };
  uchar low[128];  // row r of a group of 128: half r / 2 of the group's 32 bytes r mod 2
  uchar high[64];  // bits 2 r of the group's 32 bytes
  char scales[16];
  half scale;
};

static_assert(sizeof(BlockF32) == 4 && alignof(BlockF32) == 4, "BlockF32: not the file's format");
static_assert(sizeof(BlockF16) == 2 && alignof(BlockF16) == 2, "BlockF16: not the file's format");
static_assert(sizeof(BlockBF16) == 2, "BlockBF16: not the file's format");
static_assert(sizeof(BlockQ8_0) == 34 && alignof(BlockQ8_0) == 2, "BlockQ8_0: not the format");
static_assert(sizeof(BlockQ4_0) == 18 && alignof(BlockQ4_0) == 2, "BlockQ4_0: not the format");
static_assert(sizeof(BlockQ4_1) == 20, "BlockQ4_1: not the file's format");
static_assert(sizeof(BlockQ5_0) == 22 && alignof(BlockQ5_0) == 2, "BlockQ5_0: not the format");
static_assert(sizeof(BlockQ5_1) == 24, "BlockQ5_1: not the file's format");
static_assert(sizeof(BlockQ2_K) == 84, "BlockQ2_K: not the file's format");
static_assert(sizeof(BlockQ3_K) == 110, "BlockQ3_K: not the file's format");
static_assert(sizeof(BlockQ4_K) == 144, "BlockQ4_K: not the file's format");
static_assert(sizeof(BlockQ5_K) == 176, "BlockQ5_K: not the file's format");
static_assert(sizeof(BlockQ6_K) == 210, "BlockQ6_K: not the file's format");

inline float bf16_to_float(ushort bits) { return as_type<float>(uint(bits) << 16); }

// Scale (x) and minimum (y) of sub-block `sub` of 8 in the 12 bytes that Q4_K and Q5_K share, six
// bits each. The first four scales are bytes 0 to 3, their minimums bytes 4 to 7; later ones keep
// their low four bits in bytes 8 to 11 and their high two in the tops of the first eight bytes.
inline uint2 k_scale(device const uchar* packed, uint sub) {
  if (sub < 4) return uint2(packed[sub] & 63, packed[sub + 4] & 63);
  const uint low = packed[sub + 4];
  return uint2((low & 15) | (packed[sub - 4] >> 6 << 4), (low >> 4) | (packed[sub] >> 6 << 4));
}

// Sub-scale `sub` of 16 of a Q3_K block.
inline int q3_k_scale(device const uchar* packed, uint sub) {
  const uint low = (packed[sub % 8] >> (sub / 8 * 4)) & 15;
  const uint high = (packed[8 + sub % 4] >> (sub / 4 * 2)) & 3;
  return int(low | high << 4) - 32;
}

// expand16: elements 16 * part to 16 * part + 15 of a block. Plain numbers have no such parts:
// there it is 16 elements of the row from `block` on.
inline void expand16(device const BlockF32* block, uint part, thread float* out) {
  for (uint i = 0; i < 16; ++i) out[i] = block[16 * part + i].value;
}

inline void expand16(device const BlockF16* block, uint part, thread float* out) {
  for (uint i = 0; i < 16; ++i) out[i] = float(block[16 * part + i].value);
}

inline void expand16(device const BlockBF16* block, uint part, thread float* out) {
  for (uint i = 0; i < 16; ++i) out[i] = bf16_to_float(block[16 * part + i].value);
}

inline void expand16(device const BlockQ8_0* block, uint part, thread float* out) {
  const float scale = float(block->scale);
  for (uint i = 0; i < 16; ++i) out[i] = scale * float(block->q[16 * part + i]);
}

inline void expand16(device const BlockQ4_0* block, uint part, thread float* out) {
  const float scale = float(block->scale);
  for (uint i = 0; i < 16; ++i) out[i] = scale * float(int((block->q[i] >> (4 * part)) & 15) - 8);
}

inline void expand16(device const BlockQ4_1* block, uint part, thread float* out) {
  const float scale = float(block->scale), offset = float(block->offset);
  for (uint i = 0; i < 16; ++i) out[i] = scale * float((block->q[i] >> (4 * part)) & 15) + offset;
}

inline void expand16(device const BlockQ5_0* block, uint part, thread float* out) {
  const float scale = float(block->scale);
  const uint high = block->high[part];
  for (uint i = 0; i < 16; ++i) {
    const uint q = ((block->q[i] >> (4 * part)) & 15) | ((high >> i) & 1) << 4;
    out[i] = scale * float(int(q) - 16);
  }
}

inline void expand16(device const BlockQ5_1* block, uint part, thread float* out) {
  const float scale = float(block->scale), offset = float(block->offset);
  const uint high = block->high >> (16 * part);
  for (uint i = 0; i < 16; ++i) {
    const uint q = ((block->q[i] >> (4 * part)) & 15) | ((high >> i) & 1) << 4;
    out[i] = scale * float(q) + offset;
  }
}

inline void expand16(device const BlockQ2_K* block, uint part, thread float* out) {
  const float scale = float(block->scale) * float(block->scales[part] & 15);
  const float minimum = float(block->minimum) * float(block->scales[part] >> 4);
  device const uchar* q = block->q + part / 8 * 32 + part % 2 * 16;
  const uint shift = part % 8 / 2 * 2;
  for (uint i = 0; i < 16; ++i) out[i] = scale * float((q[i] >> shift) & 3) - minimum;
}

inline void expand16(device const BlockQ3_K* block, uint part, thread float* out) {
  const float scale = float(block->scale) * float(q3_k_scale(block->scales, part));
  device const uchar* q = block->q + part / 8 * 32 + part % 2 * 16;
  device const uchar* high = block->high + part % 2 * 16;
  const uint shift = part % 8 / 2 * 2, row = part / 2;
  for (uint i = 0; i < 16; ++i) {
    const uint value = ((q[i] >> shift) & 3) | ((high[i] >> row) & 1) << 2;
    out[i] = scale * float(int(value) - 4);
  }
}

inline void expand16(device const BlockQ4_K* block, uint part, thread float* out) {
  const uint sub = part / 2;
  const uint2 packed = k_scale(block->scales, sub);
  const float scale = float(block->scale) * float(packed.x);
  const float minimum = float(block->minimum) * float(packed.y);
  device const uchar* q = block->q + sub / 2 * 32 + part % 2 * 16;
  const uint shift = sub % 2 * 4;
  for (uint i = 0; i < 16; ++i) out[i] = scale * float((q[i] >> shift) & 15) - minimum;
}

inline void expand16(device const BlockQ5_K* block, uint part, thread float* out) {
  const uint sub = part / 2;
  const uint2 packed = k_scale(block->scales, sub);
  const float scale = float(block->scale) * float(packed.x);
  const float minimum = float(block->minimum) * float(packed.y);
  device const uchar* q = block->q + sub / 2 * 32 + part % 2 * 16;
  device const uchar* high = block->high + part % 2 * 16;
  const uint shift = sub % 2 * 4;
  for (uint i = 0; i < 16; ++i) {
    const uint value = ((q[i] >> shift) & 15) | ((high[i] >> sub) & 1) << 4;
    out[i] = scale * float(value) - minimum;
  }
}

inline void expand16(device const BlockQ6_K* block, uint part, thread float* out) {
  const float scale = float(block->scale) * float(block->scales[part]);
  const uint group = part / 8, row = part % 8 / 2, first = part % 2 * 16;
  device const uchar* low = block->low + group * 64 + row % 2 * 32 + first;
  device const uchar* high = block->high + group * 32 + first;
  for (uint i = 0; i < 16; ++i) {
    const uint q = ((low[i] >> (row / 2 * 4)) & 15) | ((high[i] >> (row * 2)) & 3) << 4;
    out[i] = scale * float(int(q) - 32);
  }
}

// The 16 elements of a row from column 16 * chunk on. All of them must exist: rows of plain numbers
// may be of any length, and their last elements are for the caller to read one by one.
template <typename Block>
inline void dequantize16(device const Block* row, uint chunk, thread float* out) {
  constexpr uint n_parts = Block::kElements / 16;
  if (n_parts == 0) {
    expand16(row, chunk, out);
  } else {
    constexpr uint divisor = n_parts == 0 ? 1 : n_parts;
    expand16(row + chunk / divisor, chunk % divisor, out);
  }
}

// One element of a row of plain numbers; blocks are never read one by one.
template <typename Block>
inline float plain_element(device const Block*, uint) {
  return 0.0f;
}
inline float plain_element(device const BlockF32* row, uint column) { return row[column].value; }
inline float plain_element(device const BlockF16* row, uint column) {
  return float(row[column].value);
}
inline float plain_element(device const BlockBF16* row, uint column) {
  return bf16_to_float(row[column].value);
}

// As dequantize16, with zeros where a row of n_cols elements has ended.
template <typename Block>
inline void dequantize16_padded(device const Block* row, uint chunk, uint n_cols,
                                thread float* out) {
  if (16 * chunk + 16 <= n_cols) {
    dequantize16(row, chunk, out);
  } else {
    for (uint i = 0; i < 16; ++i) {
      out[i] = 16 * chunk + i < n_cols ? plain_element(row, 16 * chunk + i) : 0.0f;
    }
  }
}
