// Activations as 16-bit integers: the input of the integer matrix products.
#include "cpu/kernels/kernel_functions.h"
#include "cpu/packing/packed_format.h"

namespace quarrel::cpu::QUARREL_ISA {
namespace {

constexpr std::size_t kLanes = 16;
constexpr float kLargest = 32512.0f;  // 127 * 256: the high byte must not overflow
constexpr float kSmallest = 1e-30f;   // below it a reciprocal could be infinite

struct Range {
  float largest;  // magnitude
  float poison;   // 0, or NaN where an element is not finite
};

Range range_of(const float* x, std::size_t n) {
  const F32x16 zero = broadcast(0.0f);
  F32x16 largest = zero;
  F32x16 poison = zero;
  for (std::size_t i = 0; i < n; i += kLanes) {
    const F32x16 v = load(x + i);
    largest = max(max(v, sub(zero, v)), largest);
    poison = fma(v, zero, poison);
  }
  return {reduce_max(largest), reduce_add(poison)};
}

}  // namespace

void quantize_row(const float* x, std::byte* to, std::size_t n) {
  auto* planes = reinterpret_cast<std::int8_t*>(to);
  auto* sums32 = reinterpret_cast<std::int32_t*>(to + quantized_sums32_offset(n));
  auto* sums16 = reinterpret_cast<std::int32_t*>(to + quantized_sums16_offset(n));
  auto* scale = reinterpret_cast<float*>(to + quantized_scale_offset(n));
  const Range range = range_of(x, n);
  if (!(range.poison == 0.0f) || range.largest < kSmallest) {
    __builtin_memset(to, 0, quantized_scale_offset(n));
    *scale = range.poison;  // what cannot be represented stays visible as NaN
    return;
  }
  *scale = range.largest / kLargest;
  const F32x16 inverse = broadcast(kLargest / range.largest);
  for (std::size_t b = 0; b < n / kSubBlock; ++b, planes += 2 * kSubBlock) {
    for (std::size_t half = 0; half < 2; ++half) {
      const F32x16 v = load(x + b * kSubBlock + half * kLanes);
      sums16[2 * b + half] = store_split(round_to_int(mul(v, inverse)), planes + half * kLanes,
                                         planes + kSubBlock + half * kLanes);
    }
    sums32[b] = sums16[2 * b] + sums16[2 * b + 1];
  }
}

}  // namespace quarrel::cpu::QUARREL_ISA
