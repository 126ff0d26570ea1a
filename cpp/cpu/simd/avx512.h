// Sixteen float32 lanes in one AVX-512 register.
#pragma once

#include <immintrin.h>

#include <cstdint>

namespace quarrel::cpu::QUARREL_ISA {

struct F32x16 {
  __m512 v;
};

static inline __mmask16 first_lanes(int n) { return static_cast<__mmask16>((1u << n) - 1); }

static inline F32x16 broadcast(float x) { return {_mm512_set1_ps(x)}; }
static inline F32x16 load(const float* p) { return {_mm512_loadu_ps(p)}; }
static inline F32x16 load_partial(const float* p, int n) {
  return {_mm512_maskz_loadu_ps(first_lanes(n), p)};
}
static inline void store(float* p, F32x16 a) { _mm512_storeu_ps(p, a.v); }
static inline void store_partial(float* p, F32x16 a, int n) {
  _mm512_mask_storeu_ps(p, first_lanes(n), a.v);
}
static inline F32x16 load_f16(const std::uint16_t* p) {
  return {_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)))};
}
static inline F32x16 load_bf16(const std::uint16_t* p) {
  const __m256i half = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16))};
}
static inline F32x16 broadcast_f16(const std::uint16_t* p) {
  return {_mm512_cvtph_ps(_mm256_set1_epi16(static_cast<short>(*p)))};
}
static inline void store_f16(std::uint16_t* p, F32x16 a) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p),
                      _mm512_cvtps_ph(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}

static inline F32x16 add(F32x16 a, F32x16 b) { return {_mm512_add_ps(a.v, b.v)}; }
static inline F32x16 sub(F32x16 a, F32x16 b) { return {_mm512_sub_ps(a.v, b.v)}; }
static inline F32x16 mul(F32x16 a, F32x16 b) { return {_mm512_mul_ps(a.v, b.v)}; }
static inline F32x16 div(F32x16 a, F32x16 b) { return {_mm512_div_ps(a.v, b.v)}; }
static inline F32x16 fma(F32x16 a, F32x16 b, F32x16 c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }
static inline F32x16 max(F32x16 a, F32x16 b) { return {_mm512_max_ps(a.v, b.v)}; }
static inline F32x16 min(F32x16 a, F32x16 b) { return {_mm512_min_ps(a.v, b.v)}; }
static inline F32x16 round_to_int(F32x16 a) {
  const __m512 magic = _mm512_set1_ps(12582912.0f);
  return {_mm512_sub_ps(_mm512_add_ps(a.v, magic), magic)};
}
static inline F32x16 pow2(F32x16 a) {
  const __m512i exponent = _mm512_add_epi32(_mm512_cvttps_epi32(a.v), _mm512_set1_epi32(127));
  return {_mm512_castsi512_ps(_mm512_slli_epi32(exponent, 23))};
}
static inline F32x16 select_range(int begin, int end, F32x16 a, F32x16 b) {
  const auto from = static_cast<__mmask16>(0xffffu << begin);
  return {_mm512_mask_blend_ps(static_cast<__mmask16>(from & first_lanes(end)), b.v, a.v)};
}
static inline F32x16 select_less(F32x16 a, F32x16 limit, F32x16 value, F32x16 otherwise) {
  const __mmask16 less = _mm512_cmp_ps_mask(a.v, limit.v, _CMP_LT_OQ);
  return {_mm512_mask_blend_ps(less, otherwise.v, value.v)};
}

static inline float reduce_add(F32x16 a) {
  const __m256 x = _mm256_add_ps(_mm512_castps512_ps256(a.v), _mm512_extractf32x8_ps(a.v, 1));
  const __m128 y = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
  const __m128 z = _mm_add_ps(y, _mm_movehl_ps(y, y));
  return _mm_cvtss_f32(_mm_add_ss(z, _mm_movehdup_ps(z)));
}
static inline float reduce_max(F32x16 a) {
  const __m256 x = _mm256_max_ps(_mm512_castps512_ps256(a.v), _mm512_extractf32x8_ps(a.v, 1));
  const __m128 y = _mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
  const __m128 z = _mm_max_ps(y, _mm_movehl_ps(y, y));
  return _mm_cvtss_f32(_mm_max_ss(z, _mm_movehdup_ps(z)));
}

}  // namespace quarrel::cpu::QUARREL_ISA
