#include "gguf/dequantize.h"

#include <bit>
#include <cstdint>
#include <cstring>
#include <string>

#include "core/error.h"
#include "gguf/half.h"

// Every function expands one block. Products and sums keep the order of the reference: a scale is
// multiplied into its float32 sub-scale first, then by the integer, then the minimum is subtracted.
// Offsets in the comments are bytes from the start of the block.

namespace quarrel::gguf {
namespace {

static_assert(std::endian::native == std::endian::little, "GGUF blocks are little endian");

constexpr std::size_t kSuperBlock = 256;

using Byte = std::uint8_t;

std::uint16_t load_u16(const Byte* p) {
  std::uint16_t value;
  std::memcpy(&value, p, sizeof value);
  return value;
}

std::uint32_t load_u32(const Byte* p) {
  std::uint32_t value;
  std::memcpy(&value, p, sizeof value);
  return value;
}

float load_f16(const Byte* p) { return f16_to_f32(load_u16(p)); }

void expand_f32(const Byte* block, float* out) { std::memcpy(out, block, sizeof *out); }
void expand_f16(const Byte* block, float* out) { *out = load_f16(block); }
void expand_bf16(const Byte* block, float* out) { *out = bf16_to_f32(load_u16(block)); }

// 0: scale, 2: 16 bytes; element i is the low half of byte i, element i + 16 the high half.
void expand_q4_0(const Byte* block, float* out) {
  const float d = load_f16(block);
  for (int i = 0; i < 16; ++i) {
    const int q = block[2 + i];
    out[i] = d * static_cast<float>((q & 15) - 8);
    out[i + 16] = d * static_cast<float>((q >> 4) - 8);
  }
}

// 0: scale, 2: minimum, 4: as Q4_0.
void expand_q4_1(const Byte* block, float* out) {
  const float d = load_f16(block);
  const float m = load_f16(block + 2);
  for (int i = 0; i < 16; ++i) {
    const int q = block[4 + i];
    out[i] = d * static_cast<float>(q & 15) + m;
    out[i + 16] = d * static_cast<float>(q >> 4) + m;
  }
}

// The 5-bit element i of 32: low bits as in Q4_0, bit i of `high` on top.
int five_bits(const Byte* low, std::uint32_t high, int i) {
  const int nibble = i < 16 ? low[i] & 15 : low[i - 16] >> 4;
  return nibble | static_cast<int>((high >> i) & 1u) << 4;
}

// 0: scale, 2: the fifth bits, 6: as Q4_0.
void expand_q5_0(const Byte* block, float* out) {
  const float d = load_f16(block);
  const std::uint32_t high = load_u32(block + 2);
  for (int i = 0; i < 32; ++i) out[i] = d * static_cast<float>(five_bits(block + 6, high, i) - 16);
}

// 0: scale, 2: minimum, 4: the fifth bits, 8: as Q4_0.
void expand_q5_1(const Byte* block, float* out) {
  const float d = load_f16(block);
  const float m = load_f16(block + 2);
  const std::uint32_t high = load_u32(block + 4);
  for (int i = 0; i < 32; ++i) out[i] = d * static_cast<float>(five_bits(block + 8, high, i)) + m;
}

// 0: scale, 2: 32 signed bytes.
void expand_q8_0(const Byte* block, float* out) {
  const float d = load_f16(block);
  for (int i = 0; i < 32; ++i)
    out[i] = static_cast<float>(static_cast<std::int8_t>(block[2 + i])) * d;
}

// 0: 16 sub-scales (low half) and minimums (high half), 16: 2-bit elements, 80: scale, 82: scale
// of the minimums. In each group of 128 elements, row r of 32 sits in bits 2r of 32 bytes.
void expand_q2_k(const Byte* block, float* out) {
  const float d = load_f16(block + 80);
  const float dmin = load_f16(block + 82);
  for (int sub = 0; sub < 16; ++sub) {
    const float scale = d * static_cast<float>(block[sub] & 15);
    const float minimum = dmin * static_cast<float>(block[sub] >> 4);
    const Byte* q = block + 16 + sub / 8 * 32 + sub % 2 * 16;
    const int shift = sub % 8 / 2 * 2;
    for (int i = 0; i < 16; ++i)
      out[sub * 16 + i] = scale * static_cast<float>((q[i] >> shift) & 3) - minimum;
  }
}

// Sub-scale `sub` of 16 in 12 bytes: 4 low bits in bytes 0 to 7, 2 high bits in bytes 8 to 11.
int q3_k_scale(const Byte* packed, int sub) {
  const int low = (packed[sub % 8] >> (sub / 8 * 4)) & 15;
  const int high = (packed[8 + sub % 4] >> (sub / 4 * 2)) & 3;
  return (low | high << 4) - 32;
}

// 0: third bits (bit r of byte i belongs to row r of 32, a set bit means "subtract nothing"),
// 32: 2-bit elements as in Q2_K, 96: sub-scales, 108: scale.
void expand_q3_k(const Byte* block, float* out) {
  const float d = load_f16(block + 108);
  for (int sub = 0; sub < 16; ++sub) {
    const float scale = d * static_cast<float>(q3_k_scale(block + 96, sub));
    const Byte* high = block + sub % 2 * 16;
    const Byte* q = block + 32 + sub / 8 * 32 + sub % 2 * 16;
    const int shift = sub % 8 / 2 * 2;
    for (int i = 0; i < 16; ++i) {
      const int offset = (high[i] >> (sub / 2)) & 1 ? 0 : 4;
      out[sub * 16 + i] = scale * static_cast<float>(((q[i] >> shift) & 3) - offset);
    }
  }
}

struct ScaleAndMinimum {
  int scale;
  int minimum;
};

// Sub-block `sub` of 8 in the 12 bytes that Q4_K and Q5_K share: six bits each. The first four
// scales lie in bytes 0 to 3, their minimums in bytes 4 to 7; the later ones keep their low four
// bits in bytes 8 to 11 and their high two in the tops of the first eight bytes.
ScaleAndMinimum k_scale(const Byte* packed, int sub) {
  if (sub < 4) return {packed[sub] & 63, packed[sub + 4] & 63};
  const int low = packed[sub + 4];
  return {(low & 15) | (packed[sub - 4] >> 6) << 4, (low >> 4) | (packed[sub] >> 6) << 4};
}

// 0: scale, 2: scale of the minimums, 4: sub-scales, 16: 4-bit elements; of each 32 bytes the low
// halves are one sub-block and the high halves the next.
void expand_q4_k(const Byte* block, float* out) {
  const float d = load_f16(block);
  const float dmin = load_f16(block + 2);
  for (int sub = 0; sub < 8; ++sub) {
    const auto packed = k_scale(block + 4, sub);
    const float scale = d * static_cast<float>(packed.scale);
    const float minimum = dmin * static_cast<float>(packed.minimum);
    const Byte* q = block + 16 + sub / 2 * 32;
    const int shift = sub % 2 * 4;
    for (int i = 0; i < 32; ++i)
      out[sub * 32 + i] = scale * static_cast<float>((q[i] >> shift) & 15) - minimum;
  }
}

// 0 to 15: as Q4_K, 16: fifth bits (bit r of byte i belongs to sub-block r), 48: as Q4_K.
void expand_q5_k(const Byte* block, float* out) {
  const float d = load_f16(block);
  const float dmin = load_f16(block + 2);
  const Byte* high = block + 16;
  for (int sub = 0; sub < 8; ++sub) {
    const auto packed = k_scale(block + 4, sub);
    const float scale = d * static_cast<float>(packed.scale);
    const float minimum = dmin * static_cast<float>(packed.minimum);
    const Byte* low = block + 48 + sub / 2 * 32;
    const int shift = sub % 2 * 4;
    for (int i = 0; i < 32; ++i) {
      const int q = ((low[i] >> shift) & 15) | ((high[i] >> sub) & 1) << 4;
      out[sub * 32 + i] = scale * static_cast<float>(q) - minimum;
    }
  }
}

// 0: low four bits, 128: high two bits, 192: 16 signed sub-scales, 208: scale. In each group of
// 128 elements, row r of 32 has its low bits in bytes 32 (r mod 2) on, half r / 2, and its high
// bits in bits 2r of 32 bytes.
void expand_q6_k(const Byte* block, float* out) {
  const float d = load_f16(block + 208);
  for (int sub = 0; sub < 16; ++sub) {
    const float scale = d * static_cast<float>(static_cast<std::int8_t>(block[192 + sub]));
    const int group = sub / 8;
    const int row = sub % 8 / 2;
    const Byte* low = block + group * 64 + row % 2 * 32 + sub % 2 * 16;
    const Byte* high = block + 128 + group * 32 + sub % 2 * 16;
    for (int i = 0; i < 16; ++i) {
      const int q = ((low[i] >> (row / 2 * 4)) & 15) | ((high[i] >> (row * 2)) & 3) << 4;
      out[sub * 16 + i] = scale * static_cast<float>(q - 32);
    }
  }
}

template <void (*kExpand)(const Byte*, float*), std::size_t kBlockBytes, std::size_t kBlockElements>
void expand_row(const Byte* src, float* dst, std::size_t n_elements) {
  for (std::size_t i = 0; i < n_elements / kBlockElements; ++i)
    kExpand(src + i * kBlockBytes, dst + i * kBlockElements);
}

}  // namespace

void dequantize_row(DType dtype, const std::byte* src, float* dst, std::size_t n_elements) {
  if (n_elements % traits(dtype).block_elements != 0)
    throw InvalidArgument("[dequantize] expected a multiple of " +
                          std::to_string(traits(dtype).block_elements) + " elements for " +
                          std::string(traits(dtype).name) + ", got " + std::to_string(n_elements));
  const auto* from = reinterpret_cast<const Byte*>(src);
  switch (dtype) {
    case DType::F32:
      return expand_row<expand_f32, 4, 1>(from, dst, n_elements);
    case DType::F16:
      return expand_row<expand_f16, 2, 1>(from, dst, n_elements);
    case DType::BF16:
      return expand_row<expand_bf16, 2, 1>(from, dst, n_elements);
    case DType::Q4_0:
      return expand_row<expand_q4_0, 18, 32>(from, dst, n_elements);
    case DType::Q4_1:
      return expand_row<expand_q4_1, 20, 32>(from, dst, n_elements);
    case DType::Q5_0:
      return expand_row<expand_q5_0, 22, 32>(from, dst, n_elements);
    case DType::Q5_1:
      return expand_row<expand_q5_1, 24, 32>(from, dst, n_elements);
    case DType::Q8_0:
      return expand_row<expand_q8_0, 34, 32>(from, dst, n_elements);
    case DType::Q2_K:
      return expand_row<expand_q2_k, 84, kSuperBlock>(from, dst, n_elements);
    case DType::Q3_K:
      return expand_row<expand_q3_k, 110, kSuperBlock>(from, dst, n_elements);
    case DType::Q4_K:
      return expand_row<expand_q4_k, 144, kSuperBlock>(from, dst, n_elements);
    case DType::Q5_K:
      return expand_row<expand_q5_k, 176, kSuperBlock>(from, dst, n_elements);
    case DType::Q6_K:
      return expand_row<expand_q6_k, 210, kSuperBlock>(from, dst, n_elements);
  }
}

}  // namespace quarrel::gguf
