// Sixteen float32 lanes in plain C++. It defines what the other instruction sets must compute.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

namespace quarrel::cpu::QUARREL_ISA {

struct F32x16 {
  float v[16];
};

namespace detail {

static inline float bits_to_float(std::uint32_t bits) {
  float f;
  std::memcpy(&f, &bits, sizeof f);
  return f;
}

static inline std::uint32_t float_to_bits(float f) {
  std::uint32_t bits;
  std::memcpy(&bits, &f, sizeof bits);
  return bits;
}

// Exact: a half's value times 2^-112 after its exponent was moved into a float's place.
static inline float half_to_float(std::uint16_t h) {
  const std::uint32_t sign = static_cast<std::uint32_t>(h & 0x8000) << 16;
  const std::uint32_t magnitude = h & 0x7fff;
  if (magnitude >= 0x7c00)  // infinity or NaN
    return bits_to_float(sign | 0x7f800000 | (magnitude & 0x3ff) << 13);
  const float scaled = bits_to_float(magnitude << 13) * bits_to_float(0x77800000);  // 2^112
  return bits_to_float(sign | float_to_bits(scaled));
}

// Rounds to nearest even.
static inline std::uint16_t float_to_half(float f) {
  const std::uint32_t bits = float_to_bits(f);
  const auto sign = static_cast<std::uint16_t>(bits >> 16 & 0x8000);
  std::uint32_t magnitude = bits & 0x7fffffff;
  if (magnitude > 0x7f800000) return static_cast<std::uint16_t>(sign | 0x7e00);
  if (magnitude >= 0x477ff000) return static_cast<std::uint16_t>(sign | 0x7c00);
  if (magnitude < 0x38800000) {  // denormal: let the float adder round at the right place
    const float rounded = bits_to_float(magnitude) + bits_to_float(0x3f000000);
    return static_cast<std::uint16_t>(sign | (float_to_bits(rounded) - 0x3f000000));
  }
  magnitude += 0xfff + (magnitude >> 13 & 1) - 0x38000000;
  return static_cast<std::uint16_t>(sign | magnitude >> 13);
}

}  // namespace detail

#define QUARREL_LANES(expr)                   \
  F32x16 r;                                   \
  for (int i = 0; i < 16; ++i) r.v[i] = expr; \
  return r

static inline F32x16 broadcast(float x) { QUARREL_LANES(x); }
static inline F32x16 load(const float* p) { QUARREL_LANES(p[i]); }
static inline F32x16 load_partial(const float* p, int n) { QUARREL_LANES(i < n ? p[i] : 0.0f); }
static inline void store(float* p, F32x16 a) { std::memcpy(p, a.v, sizeof a.v); }
static inline void store_partial(float* p, F32x16 a, int n) {
  for (int i = 0; i < n; ++i) p[i] = a.v[i];
}
static inline F32x16 load_f16(const std::uint16_t* p) {
  QUARREL_LANES(detail::half_to_float(p[i]));
}
static inline F32x16 load_bf16(const std::uint16_t* p) {
  QUARREL_LANES(detail::bits_to_float(static_cast<std::uint32_t>(p[i]) << 16));
}
static inline F32x16 broadcast_f16(const std::uint16_t* p) {
  return broadcast(detail::half_to_float(*p));
}
static inline void store_f16(std::uint16_t* p, F32x16 a) {
  for (int i = 0; i < 16; ++i) p[i] = detail::float_to_half(a.v[i]);
}

static inline F32x16 add(F32x16 a, F32x16 b) { QUARREL_LANES(a.v[i] + b.v[i]); }
static inline F32x16 sub(F32x16 a, F32x16 b) { QUARREL_LANES(a.v[i] - b.v[i]); }
static inline F32x16 mul(F32x16 a, F32x16 b) { QUARREL_LANES(a.v[i] * b.v[i]); }
static inline F32x16 div(F32x16 a, F32x16 b) { QUARREL_LANES(a.v[i] / b.v[i]); }
static inline F32x16 fma(F32x16 a, F32x16 b, F32x16 c) {
  QUARREL_LANES(__builtin_fmaf(a.v[i], b.v[i], c.v[i]));
}
// As x86 defines them: the second operand where either is NaN.
static inline F32x16 max(F32x16 a, F32x16 b) { QUARREL_LANES(a.v[i] > b.v[i] ? a.v[i] : b.v[i]); }
static inline F32x16 min(F32x16 a, F32x16 b) { QUARREL_LANES(a.v[i] < b.v[i] ? a.v[i] : b.v[i]); }
// To nearest even, for |x| < 2^22: the classic constant pushes the fraction out of the mantissa.
static inline F32x16 round_to_int(F32x16 a) { QUARREL_LANES((a.v[i] + 12582912.0f) - 12582912.0f); }
// 2^a for whole a in [-126, 127].
static inline F32x16 pow2(F32x16 a) {
  QUARREL_LANES(detail::bits_to_float(
      static_cast<std::uint32_t>(static_cast<std::int32_t>(a.v[i]) + 127) << 23));
}
// Lane i of a where i is in [begin, end), else of b.
static inline F32x16 select_range(int begin, int end, F32x16 a, F32x16 b) {
  QUARREL_LANES(i >= begin && i < end ? a.v[i] : b.v[i]);
}
// value where a < limit, else a's lane of otherwise.
static inline F32x16 select_less(F32x16 a, F32x16 limit, F32x16 value, F32x16 otherwise) {
  QUARREL_LANES(a.v[i] < limit.v[i] ? value.v[i] : otherwise.v[i]);
}

// Sums and maxima of all lanes fold the upper half onto the lower: the order every set follows.
static inline float reduce_add(F32x16 a) {
  for (int half = 8; half > 0; half /= 2)
    for (int i = 0; i < half; ++i) a.v[i] += a.v[i + half];
  return a.v[0];
}
static inline float reduce_max(F32x16 a) {
  for (int half = 8; half > 0; half /= 2)
    for (int i = 0; i < half; ++i) a.v[i] = a.v[i] > a.v[i + half] ? a.v[i] : a.v[i + half];
  return a.v[0];
}

#undef QUARREL_LANES

}  // namespace quarrel::cpu::QUARREL_ISA
