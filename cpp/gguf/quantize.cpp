#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <string>

#include "core/error.h"
#include "gguf/dequantize.h"
#include "gguf/half.h"

namespace quarrel::gguf {
namespace {

constexpr int kBlock = 32;

using Byte = std::uint8_t;

void store_u16(Byte* p, std::uint16_t value) { std::memcpy(p, &value, sizeof value); }

// 1 / scale, or 0 where the scale is so small that its reciprocal is infinite: such a scale is 0
// as float16, so the integers do not matter, but converting an infinity to one would be undefined.
float reciprocal(float scale) {
  const float inverse = 1.0f / scale;
  return std::isfinite(inverse) ? inverse : 0.0f;
}

// True, after writing a block of NaN, when an element is not finite.
bool pack_not_finite(const float* x, Byte* block, std::size_t block_bytes) {
  if (std::all_of(x, x + kBlock, [](float v) { return std::isfinite(v); })) return false;
  std::memset(block, 0, block_bytes);
  store_u16(block, f32_to_f16(std::numeric_limits<float>::quiet_NaN()));
  return true;
}

void pack_q8_0(const float* x, Byte* block) {
  if (pack_not_finite(x, block, 2 + kBlock)) return;
  float largest = 0.0f;
  for (int i = 0; i < kBlock; ++i) largest = std::max(largest, std::fabs(x[i]));
  const float scale = largest / 127.0f;
  const float inverse = reciprocal(scale);
  store_u16(block, f32_to_f16(scale));
  for (int i = 0; i < kBlock; ++i)
    block[2 + i] = static_cast<Byte>(static_cast<std::int8_t>(std::round(x[i] * inverse)));
}

void pack_q4_0(const float* x, Byte* block) {
  if (pack_not_finite(x, block, 2 + kBlock / 2)) return;
  float extreme = 0.0f;  // the element of largest magnitude, with its sign
  for (int i = 0; i < kBlock; ++i)
    if (std::fabs(x[i]) > std::fabs(extreme)) extreme = x[i];
  const float scale = extreme / -8.0f;
  const float inverse = reciprocal(scale);
  const auto pack = [inverse](float v) {
    return std::min(15, static_cast<int>(v * inverse + 8.5f));
  };
  store_u16(block, f32_to_f16(scale));
  for (int i = 0; i < kBlock / 2; ++i)
    block[2 + i] = static_cast<Byte>(pack(x[i]) | pack(x[i + kBlock / 2]) << 4);
}

}  // namespace

void quantize_row(DType dtype, const float* src, std::byte* dst, std::size_t n_elements) {
  if (n_elements % traits(dtype).block_elements != 0)
    throw InvalidArgument("[quantize] expected a multiple of " +
                          std::to_string(traits(dtype).block_elements) + " elements for " +
                          std::string(traits(dtype).name) + ", got " + std::to_string(n_elements));
  auto* to = reinterpret_cast<Byte*>(dst);
  const std::size_t n_blocks = n_elements / traits(dtype).block_elements;
  switch (dtype) {
    case DType::F32:
      if (n_elements != 0) std::memcpy(to, src, n_elements * sizeof *src);
      return;
    case DType::F16:
      for (std::size_t i = 0; i < n_elements; ++i) store_u16(to + 2 * i, f32_to_f16(src[i]));
      return;
    case DType::BF16:
      for (std::size_t i = 0; i < n_elements; ++i) store_u16(to + 2 * i, f32_to_bf16(src[i]));
      return;
    case DType::Q8_0:
      for (std::size_t i = 0; i < n_blocks; ++i) pack_q8_0(src + kBlock * i, to + 34 * i);
      return;
    case DType::Q4_0:
      for (std::size_t i = 0; i < n_blocks; ++i) pack_q4_0(src + kBlock * i, to + 18 * i);
      return;
    default:
      throw InvalidArgument("[quantize] expected F32, F16, BF16, Q8_0 or Q4_0, got " +
                            std::string(traits(dtype).name));
  }
}

}  // namespace quarrel::gguf
