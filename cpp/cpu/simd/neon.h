// Sixteen float32 lanes in four NEON registers (AArch64).
#pragma once

#include <arm_neon.h>

#include <cstdint>
#include <cstring>

namespace quarrel::cpu::QUARREL_ISA {

struct F32x16 {
  float32x4_t v[4];
};

#define QUARREL_PARTS(expr)                  \
  F32x16 r;                                  \
  for (int i = 0; i < 4; ++i) r.v[i] = expr; \
  return r

namespace detail {

static inline uint32x4_t range_mask(int first, int begin, int end) {
  const int32_t lanes[4] = {first, first + 1, first + 2, first + 3};
  const int32x4_t lane = vld1q_s32(lanes);
  return vandq_u32(vcgeq_s32(lane, vdupq_n_s32(begin)), vcltq_s32(lane, vdupq_n_s32(end)));
}

static inline float32x4_t round_to_int(float32x4_t a) {
  const float32x4_t magic = vdupq_n_f32(12582912.0f);
  return vsubq_f32(vaddq_f32(a, magic), magic);
}

static inline float32x4_t pow2(float32x4_t a) {
  return vreinterpretq_f32_s32(vshlq_n_s32(vaddq_s32(vcvtq_s32_f32(a), vdupq_n_s32(127)), 23));
}

// As x86 defines it: the second operand where either is NaN.
static inline float32x4_t max(float32x4_t a, float32x4_t b) {
  return vbslq_f32(vcgtq_f32(a, b), a, b);
}
static inline float32x4_t min(float32x4_t a, float32x4_t b) {
  return vbslq_f32(vcltq_f32(a, b), a, b);
}

}  // namespace detail

static inline F32x16 broadcast(float x) { QUARREL_PARTS(vdupq_n_f32(x)); }
static inline F32x16 load(const float* p) { QUARREL_PARTS(vld1q_f32(p + 4 * i)); }
static inline void store(float* p, F32x16 a) {
  for (int i = 0; i < 4; ++i) vst1q_f32(p + 4 * i, a.v[i]);
}
static inline F32x16 load_partial(const float* p, int n) {
  float lanes[16] = {};
  std::memcpy(lanes, p, sizeof(float) * static_cast<unsigned>(n));
  return load(lanes);
}
static inline void store_partial(float* p, F32x16 a, int n) {
  float lanes[16];
  store(lanes, a);
  std::memcpy(p, lanes, sizeof(float) * static_cast<unsigned>(n));
}
static inline F32x16 load_f16(const std::uint16_t* p) {
  QUARREL_PARTS(vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p + 4 * i))));
}
static inline F32x16 load_bf16(const std::uint16_t* p) {
  QUARREL_PARTS(vreinterpretq_f32_u32(vshll_n_u16(vld1_u16(p + 4 * i), 16)));
}
static inline F32x16 broadcast_f16(const std::uint16_t* p) {
  const float32x4_t x = vcvt_f32_f16(vreinterpret_f16_u16(vdup_n_u16(*p)));
  return {{x, x, x, x}};
}
static inline void store_f16(std::uint16_t* p, F32x16 a) {
  for (int i = 0; i < 4; ++i) vst1_u16(p + 4 * i, vreinterpret_u16_f16(vcvt_f16_f32(a.v[i])));
}

static inline F32x16 add(F32x16 a, F32x16 b) { QUARREL_PARTS(vaddq_f32(a.v[i], b.v[i])); }
static inline F32x16 sub(F32x16 a, F32x16 b) { QUARREL_PARTS(vsubq_f32(a.v[i], b.v[i])); }
static inline F32x16 mul(F32x16 a, F32x16 b) { QUARREL_PARTS(vmulq_f32(a.v[i], b.v[i])); }
static inline F32x16 div(F32x16 a, F32x16 b) { QUARREL_PARTS(vdivq_f32(a.v[i], b.v[i])); }
static inline F32x16 fma(F32x16 a, F32x16 b, F32x16 c) {
  QUARREL_PARTS(vfmaq_f32(c.v[i], a.v[i], b.v[i]));
}
static inline F32x16 max(F32x16 a, F32x16 b) { QUARREL_PARTS(detail::max(a.v[i], b.v[i])); }
static inline F32x16 min(F32x16 a, F32x16 b) { QUARREL_PARTS(detail::min(a.v[i], b.v[i])); }
static inline F32x16 round_to_int(F32x16 a) { QUARREL_PARTS(detail::round_to_int(a.v[i])); }
static inline F32x16 pow2(F32x16 a) { QUARREL_PARTS(detail::pow2(a.v[i])); }
static inline F32x16 select_range(int begin, int end, F32x16 a, F32x16 b) {
  QUARREL_PARTS(vbslq_f32(detail::range_mask(4 * i, begin, end), a.v[i], b.v[i]));
}
static inline F32x16 select_less(F32x16 a, F32x16 limit, F32x16 value, F32x16 otherwise) {
  QUARREL_PARTS(vbslq_f32(vcltq_f32(a.v[i], limit.v[i]), value.v[i], otherwise.v[i]));
}

static inline float reduce_add(F32x16 a) {
  const float32x4_t y = vaddq_f32(vaddq_f32(a.v[0], a.v[2]), vaddq_f32(a.v[1], a.v[3]));
  const float32x2_t z = vadd_f32(vget_low_f32(y), vget_high_f32(y));
  return vget_lane_f32(z, 0) + vget_lane_f32(z, 1);
}
static inline float reduce_max(F32x16 a) {
  const float32x4_t y = detail::max(detail::max(a.v[0], a.v[2]), detail::max(a.v[1], a.v[3]));
  float lanes[4];
  vst1q_f32(lanes, y);
  for (int half = 2; half > 0; half /= 2)
    for (int i = 0; i < half; ++i)
      lanes[i] = lanes[i] > lanes[i + half] ? lanes[i] : lanes[i + half];
  return lanes[0];
}

#undef QUARREL_PARTS

}  // namespace quarrel::cpu::QUARREL_ISA
