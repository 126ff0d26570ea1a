// From float32 to whole numbers with a scale, for a group of at most 32 dimensions of K or V.
#pragma once

#include <cstddef>
#include <cstdint>

#include "cpu/kv_format.h"
#include "cpu/simd/simd.h"

namespace quarrel::cpu::QUARREL_ISA {

struct QuantizedGroup {
  std::uint16_t scale;  // float16
  std::int8_t numbers[kKVGroup];
};

namespace detail {

// A scale as it will be stored.
struct Scale {
  std::uint16_t half;
  float value;
  float inverse;  // 0 where the value is
};

static inline Scale make_scale(float x) {
  std::uint16_t halves[16];
  store_f16(halves, broadcast(x));
  float values[16];
  store(values, load_f16(halves));
  return {halves[0], values[0], values[0] != 0.0f ? 1.0f / values[0] : 0.0f};
}

// Rounds x / scale into [lowest, highest].
static inline void round_group(const float* x, std::size_t n, const Scale& scale, float lowest,
                               float highest, std::int8_t* numbers) {
  for (std::size_t d = 0; d < n; d += 16) {
    const F32x16 scaled = mul(load(x + d), broadcast(scale.inverse));
    float lanes[16];
    store(lanes, round_to_int(min(max(scaled, broadcast(lowest)), broadcast(highest))));
    for (std::size_t i = 0; i < 16; ++i) numbers[d + i] = static_cast<std::int8_t>(lanes[i]);
  }
}

static inline float squared_error(const float* x, std::size_t n, const Scale& scale,
                                  const std::int8_t* numbers) {
  F32x16 sum = broadcast(0.0f);
  for (std::size_t d = 0; d < n; d += 16) {
    const F32x16 error = sub(load(x + d), mul(load_s8_f32(numbers + d), broadcast(scale.value)));
    sum = fma(error, error, sum);
  }
  return reduce_add(sum);
}

}  // namespace detail

// Largest magnitude to 127.
static inline QuantizedGroup quantize_q8_0(const float* x, std::size_t n) {
  F32x16 highest = broadcast(0.0f);
  for (std::size_t d = 0; d < n; d += 16) {
    const F32x16 part = load(x + d);
    highest = max(highest, max(part, sub(broadcast(0.0f), part)));
  }
  const detail::Scale scale = detail::make_scale(reduce_max(highest) / 127.0f);
  QuantizedGroup group;
  group.scale = scale.half;
  detail::round_group(x, n, scale, -127.0f, 127.0f, group.numbers);
  return group;
}

// The value of largest magnitude to -8, or a little beyond: of kTries scales the one with the
// smallest squared error. Sixteen steps are few, and clipping one value can pay.
static inline QuantizedGroup quantize_q4_0(const float* x, std::size_t n) {
  constexpr int kTries = 8;
  float extreme = 0.0f;
  for (std::size_t d = 0; d < n; ++d)
    if (__builtin_fabsf(x[d]) > __builtin_fabsf(extreme)) extreme = x[d];
  QuantizedGroup best{};
  float least = __builtin_inff();
  for (int i = 0; i < kTries; ++i) {
    const float shrink = 1.0f - 0.04f * static_cast<float>(i);
    const detail::Scale scale = detail::make_scale(extreme / -8.0f * shrink);
    QuantizedGroup group;
    group.scale = scale.half;
    detail::round_group(x, n, scale, -8.0f, 7.0f, group.numbers);
    const float error = detail::squared_error(x, n, scale, group.numbers);
    if (i > 0 && !(error < least)) continue;
    least = error;
    best = group;
  }
  return best;
}

}  // namespace quarrel::cpu::QUARREL_ISA
