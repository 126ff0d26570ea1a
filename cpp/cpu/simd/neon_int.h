// Integer lanes in quadruples of NEON registers.
#pragma once

#include <arm_neon.h>

#include <cstdint>

#include "cpu/simd/neon.h"

namespace quarrel::cpu::QUARREL_ISA {

inline constexpr int kRegisterTokens = 2;

struct I32x16 {
  int32x4_t v[4];
};
struct U8x64 {
  uint8x16_t v[4];
};

#define QUARREL_PARTS(type, expr)            \
  type r;                                    \
  for (int i = 0; i < 4; ++i) r.v[i] = expr; \
  return r

static inline U8x64 load_u8(const std::uint8_t* p) { QUARREL_PARTS(U8x64, vld1q_u8(p + 16 * i)); }
static inline void store_u8(std::uint8_t* p, U8x64 a) {
  for (int i = 0; i < 4; ++i) vst1q_u8(p + 16 * i, a.v[i]);
}
template <int kShift>
static inline U8x64 bits(U8x64 a, int mask) {
  const uint8x16_t masks = vdupq_n_u8(static_cast<std::uint8_t>(mask));
  const int8x16_t shift = vdupq_n_s8(-kShift);
  QUARREL_PARTS(U8x64, vandq_u8(vshlq_u8(a.v[i], shift), masks));
}
template <int kShift>
static inline U8x64 combine(U8x64 a, U8x64 b) {
  QUARREL_PARTS(U8x64, vorrq_u8(a.v[i], vshlq_n_u8(b.v[i], kShift)));
}

static inline I32x16 zero_i32() { QUARREL_PARTS(I32x16, vdupq_n_s32(0)); }
static inline I32x16 broadcast_i32(const std::int32_t* p) {
  QUARREL_PARTS(I32x16, vdupq_n_s32(*p));
}
static inline I32x16 sub(I32x16 a, I32x16 b) { QUARREL_PARTS(I32x16, vsubq_s32(a.v[i], b.v[i])); }
static inline I32x16 add(I32x16 a, I32x16 b) { QUARREL_PARTS(I32x16, vaddq_s32(a.v[i], b.v[i])); }
template <int kShift>
static inline I32x16 shift_left(I32x16 a) {
  QUARREL_PARTS(I32x16, vshlq_n_s32(a.v[i], kShift));
}
static inline F32x16 to_float(I32x16 a) { QUARREL_PARTS(F32x16, vcvtq_f32_s32(a.v[i])); }

namespace detail {

// Sums of four products; the signed instructions take weights below 128, so wide ones give up
// their top bit, which is added as 128 x.
template <bool kWide>
static inline int32x4_t dot4(int32x4_t acc, uint8x16_t w, int8x16_t x) {
#if defined(__ARM_FEATURE_DOTPROD)
  if constexpr (kWide) {
    const int8x16_t top = vreinterpretq_s8_u8(vshrq_n_u8(w, 7));  // 0 or 1
    acc = vaddq_s32(acc, vshlq_n_s32(vdotq_s32(vdupq_n_s32(0), top, x), 7));
    w = vandq_u8(w, vdupq_n_u8(127));
  }
  return vdotq_s32(acc, vreinterpretq_s8_u8(w), x);
#else
  const int16x8_t w_low = vreinterpretq_s16_u16(vmovl_u8(vget_low_u8(w)));
  const int16x8_t w_high = vreinterpretq_s16_u16(vmovl_u8(vget_high_u8(w)));
  const int16x8_t in = vmovl_s8(vget_low_s8(x));  // the four inputs, twice
  const int32x4_t low = vpaddq_s32(vmull_s16(vget_low_s16(w_low), vget_low_s16(in)),
                                   vmull_s16(vget_high_s16(w_low), vget_high_s16(in)));
  const int32x4_t high = vpaddq_s32(vmull_s16(vget_low_s16(w_high), vget_low_s16(in)),
                                    vmull_s16(vget_high_s16(w_high), vget_high_s16(in)));
  return vaddq_s32(acc, vpaddq_s32(low, high));
#endif
}

static inline F32x16 to_float(int16x8_t low, int16x8_t high) {
  return {{vcvtq_f32_s32(vmovl_s16(vget_low_s16(low))),
           vcvtq_f32_s32(vmovl_s16(vget_high_s16(low))),
           vcvtq_f32_s32(vmovl_s16(vget_low_s16(high))),
           vcvtq_f32_s32(vmovl_s16(vget_high_s16(high)))}};
}

}  // namespace detail

template <bool kWide>
static inline I32x16 dot4(I32x16 acc, U8x64 w, const std::int8_t* x) {
  std::int32_t four;
  __builtin_memcpy(&four, x, sizeof four);
  const int8x16_t in = vreinterpretq_s8_s32(vdupq_n_s32(four));
  QUARREL_PARTS(I32x16, detail::dot4<kWide>(acc.v[i], w.v[i], in));
}

static inline F32x16 load_u8_f32(const std::uint8_t* p) {
  const uint8x16_t bytes = vld1q_u8(p);
  return detail::to_float(vreinterpretq_s16_u16(vmovl_u8(vget_low_u8(bytes))),
                          vreinterpretq_s16_u16(vmovl_u8(vget_high_u8(bytes))));
}
static inline F32x16 load_s8_f32(const std::int8_t* p) {
  const int8x16_t bytes = vld1q_s8(p);
  return detail::to_float(vmovl_s8(vget_low_s8(bytes)), vmovl_s8(vget_high_s8(bytes)));
}

static inline void load_nibbles_f32(const std::uint8_t* p, F32x16* low, F32x16* high) {
  const uint8x16_t bytes = vld1q_u8(p);
  const int8x16_t eight = vdupq_n_s8(8);
  const int8x16_t l = vsubq_s8(vreinterpretq_s8_u8(vandq_u8(bytes, vdupq_n_u8(15))), eight);
  const int8x16_t h = vsubq_s8(vreinterpretq_s8_u8(vshrq_n_u8(bytes, 4)), eight);
  *low = detail::to_float(vmovl_s8(vget_low_s8(l)), vmovl_s8(vget_high_s8(l)));
  *high = detail::to_float(vmovl_s8(vget_low_s8(h)), vmovl_s8(vget_high_s8(h)));
}
static inline F32x16 load_nibbles_f32(const std::uint8_t* p) {
  const uint8x8_t bytes = vld1_u8(p);
  const int8x8_t eight = vdup_n_s8(8);
  return detail::to_float(
      vmovl_s8(vsub_s8(vreinterpret_s8_u8(vand_u8(bytes, vdup_n_u8(15))), eight)),
      vmovl_s8(vsub_s8(vreinterpret_s8_u8(vshr_n_u8(bytes, 4)), eight)));
}

static inline std::int32_t store_split(F32x16 a, std::int8_t* high, std::int8_t* low) {
  std::int32_t sum = 0;
  std::int32_t q[16];
  for (int i = 0; i < 4; ++i) vst1q_s32(q + 4 * i, vcvtq_s32_f32(a.v[i]));
  for (int i = 0; i < 16; ++i) {
    const std::int32_t h = (q[i] + 128) >> 8;
    high[i] = static_cast<std::int8_t>(h);
    low[i] = static_cast<std::int8_t>(q[i] - h * 256);
    sum += q[i];
  }
  return sum;
}

#undef QUARREL_PARTS

}  // namespace quarrel::cpu::QUARREL_ISA
