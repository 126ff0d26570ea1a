#include "random_weights.h"

#include <cmath>
#include <cstring>
#include <memory>
#include <span>
#include <utility>

#include "cache/block_hash.h"
#include "core/error.h"
#include "gguf/dequantize.h"
#include "gguf/half.h"

namespace quarrel::bench {
namespace {

// Where a block keeps its float16 scales. All other bits of a block may be anything. The factors
// give elements of unit variance and of a mean near zero, for uniform bits in the rest.
struct Scales {
  std::size_t offset;
  float scale;
  std::size_t minimum_offset = 0;  // 0: none
  float minimum = 0;
};

Scales scales_of(DType dtype) {
  switch (dtype) {
    case DType::Q4_0:
      return {0, 1 / 4.6f};
    case DType::Q4_1:
      return {0, 1 / 4.6f, 2, -7.5f / 4.6f};
    case DType::Q5_0:
      return {0, 1 / 9.2f};
    case DType::Q5_1:
      return {0, 1 / 9.2f, 2, -15.5f / 9.2f};
    case DType::Q8_0:
      return {0, 1 / 73.9f};
    case DType::Q2_K:
      return {80, 1 / 10.3f, 82, 1.5f / 10.3f};
    case DType::Q3_K:
      return {108, 1 / 42.4f};
    case DType::Q4_K:
      return {0, 1 / 242.0f, 2, 7.5f / 242.0f};
    case DType::Q5_K:
      return {0, 1 / 480.0f, 2, 15.5f / 480.0f};
    case DType::Q6_K:
      return {208, 1 / 1370.0f};
    default:
      throw InvalidArgument("[bench] expected a block format, got " +
                            std::string(traits(dtype).name));
  }
}

bool is_float(DType dtype) {
  return dtype == DType::F32 || dtype == DType::F16 || dtype == DType::BF16;
}

void store_f16(std::byte* to, float value) {
  const std::uint16_t half = gguf::f32_to_f16(value);
  std::memcpy(to, &half, sizeof half);
}

void fill_blocks(std::span<std::byte> data, DType dtype, float size, std::uint64_t seed) {
  for (std::size_t i = 0; i < data.size(); i += 8) {
    const std::uint64_t bits = mix_bits(seed + i);
    std::memcpy(data.data() + i, &bits, std::min<std::size_t>(8, data.size() - i));
  }
  const Scales scales = scales_of(dtype);
  for (std::size_t i = 0; i < data.size(); i += traits(dtype).block_bytes) {
    store_f16(data.data() + i + scales.offset, scales.scale * size);
    if (scales.minimum_offset != 0)
      store_f16(data.data() + i + scales.minimum_offset, scales.minimum * size);
  }
}

void fill_floats(std::span<std::byte> data, DType dtype, float size, std::uint64_t seed) {
  const std::size_t n = data.size() / traits(dtype).block_bytes;
  std::vector<float> values(n);
  for (std::size_t i = 0; i < n; ++i) {
    const auto uniform = static_cast<double>(mix_bits(seed + i) >> 11) * 0x1p-53;
    values[i] = static_cast<float>((2 * uniform - 1) * std::sqrt(3.0)) * size;
  }
  gguf::quantize_row(dtype, values.data(), data.data(), n);
}

Weight with_memory(std::string name, DType dtype, std::size_t n_rows, std::size_t n_cols,
                   std::shared_ptr<std::byte[]> memory, std::size_t n_bytes) {
  const std::span<const std::byte> data(memory.get(), n_bytes);
  return {std::move(name), dtype, n_rows, n_cols, data, std::move(memory)};
}

std::size_t checked_bytes(DType dtype, std::size_t n_rows, std::size_t n_cols) {
  if (n_cols % traits(dtype).block_elements != 0)
    throw InvalidArgument("[linear] expected a multiple of " +
                          std::to_string(traits(dtype).block_elements) + " inputs for " +
                          std::string(traits(dtype).name) + ", got " + std::to_string(n_cols));
  return n_rows * row_bytes(dtype, n_cols);
}

}  // namespace

Weight random_weight(std::string name, DType dtype, std::size_t n_rows, std::size_t n_cols,
                     float size, std::uint64_t seed) {
  const std::size_t n_bytes = checked_bytes(dtype, n_rows, n_cols);
  std::shared_ptr<std::byte[]> memory(new std::byte[n_bytes]);
  const std::span<std::byte> data(memory.get(), n_bytes);
  const auto fill = is_float(dtype) ? fill_floats : fill_blocks;
  fill(data, dtype, size, mix_bits(seed));
  return with_memory(std::move(name), dtype, n_rows, n_cols, std::move(memory), n_bytes);
}

Weight ones(std::string name, std::size_t n_cols) {
  const std::size_t n_bytes = n_cols * sizeof(float);
  std::shared_ptr<std::byte[]> memory(new std::byte[n_bytes]);
  const std::vector<float> values(n_cols, 1.0f);
  std::memcpy(memory.get(), values.data(), n_bytes);
  return with_memory(std::move(name), DType::F32, 1, n_cols, std::move(memory), n_bytes);
}

Weight blank_weight(DType dtype, std::size_t n_rows, std::size_t n_cols) {
  const std::size_t n_bytes = checked_bytes(dtype, n_rows, n_cols);
  // Not make_shared: that would write zeros.
  return with_memory("w", dtype, n_rows, n_cols,
                     std::shared_ptr<std::byte[]>(new std::byte[n_bytes]), n_bytes);
}

}  // namespace quarrel::bench
