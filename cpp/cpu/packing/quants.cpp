#include "cpu/packing/quants.h"

#include <cassert>
#include <cstring>

// Offsets in the comments are bytes from the start of the block; gguf/dequantize.cpp says what the
// formats mean.
namespace quarrel::cpu {
namespace {

using Byte = std::uint8_t;

std::uint16_t load_u16(const Byte* p) {
  std::uint16_t value;
  std::memcpy(&value, p, sizeof value);
  return value;
}

void nibbles(const Byte* from, Byte* quants) {
  for (int i = 0; i < 16; ++i) {
    quants[i] = from[i] & 15;
    quants[i + 16] = from[i] >> 4;
  }
}

void fifth_bits(const Byte* from, Byte* quants) {
  std::uint32_t bits;
  std::memcpy(&bits, from, sizeof bits);
  for (int i = 0; i < 32; ++i) quants[i] |= static_cast<Byte>(((bits >> i) & 1) << 4);
}

void q8_0(const Byte* block, BlockParts& p) {
  p.d = load_u16(block);
  for (int i = 0; i < 32; ++i) p.quants[i] = block[2 + i] ^ 0x80;
}

// 16 rows of 16 in bits 2r of 32 bytes, for each half of the block.
void two_bits(const Byte* from, Byte* quants) {
  for (int half = 0; half < 2; ++half)
    for (int row = 0; row < 4; ++row)
      for (int i = 0; i < 32; ++i)
        quants[half * 128 + row * 32 + i] = (from[half * 32 + i] >> (2 * row)) & 3;
}

void q2_k(const Byte* block, BlockParts& p) {
  std::memcpy(p.scales, block, 16);
  two_bits(block + 16, p.quants);
  p.d = load_u16(block + 80);
  p.minimum = load_u16(block + 82);
}

void q3_k(const Byte* block, BlockParts& p) {
  two_bits(block + 32, p.quants);
  for (int row = 0; row < 8; ++row)
    for (int i = 0; i < 32; ++i)
      p.quants[row * 32 + i] |= static_cast<Byte>(((block[i] >> row) & 1) << 2);
  const Byte* packed = block + 96;
  for (int sub = 0; sub < 16; ++sub) {
    const int low = (packed[sub % 8] >> (sub / 8 * 4)) & 15;
    const int high = (packed[8 + sub % 4] >> (sub / 4 * 2)) & 3;
    p.scales[sub] = static_cast<Byte>((low | high << 4) - 32);
  }
  p.d = load_u16(block + 108);
}

void k_scales(const Byte* packed, BlockParts& p) {
  for (int i = 0; i < 4; ++i) {
    p.scales[i] = packed[i] & 63;
    p.minimums[i] = packed[i + 4] & 63;
    p.scales[i + 4] = static_cast<Byte>((packed[i + 8] & 15) | (packed[i] >> 6) << 4);
    p.minimums[i + 4] = static_cast<Byte>((packed[i + 8] >> 4) | (packed[i + 4] >> 6) << 4);
  }
}

// Low halves of 32 bytes are one sub-block, high halves the next.
void k_nibbles(const Byte* from, Byte* quants) {
  for (int pair = 0; pair < 4; ++pair)
    for (int i = 0; i < 32; ++i) {
      quants[pair * 64 + i] = from[pair * 32 + i] & 15;
      quants[pair * 64 + 32 + i] = from[pair * 32 + i] >> 4;
    }
}

void k_head(const Byte* block, BlockParts& p) {
  p.d = load_u16(block);
  p.minimum = load_u16(block + 2);
  k_scales(block + 4, p);
}

void q5_k(const Byte* block, BlockParts& p) {
  k_head(block, p);
  k_nibbles(block + 48, p.quants);
  for (int sub = 0; sub < 8; ++sub)
    for (int i = 0; i < 32; ++i)
      p.quants[sub * 32 + i] |= static_cast<Byte>(((block[16 + i] >> sub) & 1) << 4);
}

// 0: low halves, 128: top two bits, 192: signed scales, 208: scale.
void q6_k(const Byte* block, BlockParts& p) {
  for (int half = 0; half < 2; ++half) {
    const Byte* low = block + half * 64;
    const Byte* high = block + 128 + half * 32;
    Byte* quants = p.quants + half * 128;
    for (int i = 0; i < 32; ++i) {
      quants[i] = static_cast<Byte>((low[i] & 15) | (high[i] & 3) << 4);
      quants[i + 32] = static_cast<Byte>((low[i + 32] & 15) | (high[i] >> 2 & 3) << 4);
      quants[i + 64] = static_cast<Byte>((low[i] >> 4) | (high[i] >> 4 & 3) << 4);
      quants[i + 96] = static_cast<Byte>((low[i + 32] >> 4) | (high[i] >> 6) << 4);
    }
  }
  std::memcpy(p.scales, block + 192, 16);
  p.d = load_u16(block + 208);
}

}  // namespace

void take_apart(DType dtype, const std::uint8_t* block, BlockParts& p) {
  switch (dtype) {
    case DType::Q4_0:
      p.d = load_u16(block);
      return nibbles(block + 2, p.quants);
    case DType::Q4_1:
      p.d = load_u16(block);
      p.minimum = load_u16(block + 2);
      return nibbles(block + 4, p.quants);
    case DType::Q5_0:
      p.d = load_u16(block);
      nibbles(block + 6, p.quants);
      return fifth_bits(block + 2, p.quants);
    case DType::Q5_1:
      p.d = load_u16(block);
      p.minimum = load_u16(block + 2);
      nibbles(block + 8, p.quants);
      return fifth_bits(block + 4, p.quants);
    case DType::Q8_0:
      return q8_0(block, p);
    case DType::Q2_K:
      return q2_k(block, p);
    case DType::Q3_K:
      return q3_k(block, p);
    case DType::Q4_K:
      k_head(block, p);
      return k_nibbles(block + 16, p.quants);
    case DType::Q5_K:
      return q5_k(block, p);
    case DType::Q6_K:
      return q6_k(block, p);
    case DType::F32:
    case DType::F16:
    case DType::BF16:
      break;
  }
  assert(false && "not a quantised type");
}

}  // namespace quarrel::cpu
