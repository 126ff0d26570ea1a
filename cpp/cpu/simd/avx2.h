// Sixteen float32 lanes in two AVX registers (AVX2, FMA, F16C).
#pragma once

#include <immintrin.h>

#include <cstdint>

namespace quarrel::cpu::QUARREL_ISA {

struct F32x16 {
  __m256 lo;
  __m256 hi;
};

namespace detail {

// All ones in the lanes first + i for which i is in [begin, end).
static inline __m256 range_mask(int first, int begin, int end) {
  const __m256i lane =
      _mm256_add_epi32(_mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7), _mm256_set1_epi32(first));
  const __m256i below = _mm256_cmpgt_epi32(_mm256_set1_epi32(begin), lane);
  const __m256i inside = _mm256_cmpgt_epi32(_mm256_set1_epi32(end), lane);
  return _mm256_castsi256_ps(_mm256_andnot_si256(below, inside));
}

static inline __m256 round_to_int(__m256 a) {
  const __m256 magic = _mm256_set1_ps(12582912.0f);
  return _mm256_sub_ps(_mm256_add_ps(a, magic), magic);
}

static inline __m256 pow2(__m256 a) {
  const __m256i exponent = _mm256_add_epi32(_mm256_cvttps_epi32(a), _mm256_set1_epi32(127));
  return _mm256_castsi256_ps(_mm256_slli_epi32(exponent, 23));
}

static inline __m128i to_half(__m256 a) {
  return _mm256_cvtps_ph(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}

static inline __m256 from_half(const std::uint16_t* p) {
  return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
}

}  // namespace detail

static inline F32x16 broadcast(float x) { return {_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
static inline F32x16 load(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
static inline F32x16 load_partial(const float* p, int n) {
  const auto mask = [n](int first) { return _mm256_castps_si256(detail::range_mask(first, 0, n)); };
  return {_mm256_maskload_ps(p, mask(0)), _mm256_maskload_ps(p + 8, mask(8))};
}
static inline void store(float* p, F32x16 a) {
  _mm256_storeu_ps(p, a.lo);
  _mm256_storeu_ps(p + 8, a.hi);
}
static inline void store_partial(float* p, F32x16 a, int n) {
  _mm256_maskstore_ps(p, _mm256_castps_si256(detail::range_mask(0, 0, n)), a.lo);
  _mm256_maskstore_ps(p + 8, _mm256_castps_si256(detail::range_mask(8, 0, n)), a.hi);
}
static inline F32x16 load_f16(const std::uint16_t* p) {
  return {detail::from_half(p), detail::from_half(p + 8)};
}
static inline F32x16 load_bf16(const std::uint16_t* p) {
  const auto* q = reinterpret_cast<const __m128i*>(p);
  const __m256i lo = _mm256_cvtepu16_epi32(_mm_loadu_si128(q));
  const __m256i hi = _mm256_cvtepu16_epi32(_mm_loadu_si128(q + 1));
  return {_mm256_castsi256_ps(_mm256_slli_epi32(lo, 16)),
          _mm256_castsi256_ps(_mm256_slli_epi32(hi, 16))};
}
static inline F32x16 broadcast_f16(const std::uint16_t* p) {
  const __m256 x = _mm256_cvtph_ps(_mm_set1_epi16(static_cast<short>(*p)));
  return {x, x};
}
static inline void store_f16(std::uint16_t* p, F32x16 a) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), detail::to_half(a.lo));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p + 8), detail::to_half(a.hi));
}

static inline F32x16 add(F32x16 a, F32x16 b) {
  return {_mm256_add_ps(a.lo, b.lo), _mm256_add_ps(a.hi, b.hi)};
}
static inline F32x16 sub(F32x16 a, F32x16 b) {
  return {_mm256_sub_ps(a.lo, b.lo), _mm256_sub_ps(a.hi, b.hi)};
}
static inline F32x16 mul(F32x16 a, F32x16 b) {
  return {_mm256_mul_ps(a.lo, b.lo), _mm256_mul_ps(a.hi, b.hi)};
}
static inline F32x16 div(F32x16 a, F32x16 b) {
  return {_mm256_div_ps(a.lo, b.lo), _mm256_div_ps(a.hi, b.hi)};
}
static inline F32x16 fma(F32x16 a, F32x16 b, F32x16 c) {
  return {_mm256_fmadd_ps(a.lo, b.lo, c.lo), _mm256_fmadd_ps(a.hi, b.hi, c.hi)};
}
static inline F32x16 max(F32x16 a, F32x16 b) {
  return {_mm256_max_ps(a.lo, b.lo), _mm256_max_ps(a.hi, b.hi)};
}
static inline F32x16 min(F32x16 a, F32x16 b) {
  return {_mm256_min_ps(a.lo, b.lo), _mm256_min_ps(a.hi, b.hi)};
}
static inline F32x16 round_to_int(F32x16 a) {
  return {detail::round_to_int(a.lo), detail::round_to_int(a.hi)};
}
static inline F32x16 pow2(F32x16 a) { return {detail::pow2(a.lo), detail::pow2(a.hi)}; }
static inline F32x16 select_range(int begin, int end, F32x16 a, F32x16 b) {
  return {_mm256_blendv_ps(b.lo, a.lo, detail::range_mask(0, begin, end)),
          _mm256_blendv_ps(b.hi, a.hi, detail::range_mask(8, begin, end))};
}
static inline F32x16 select_less(F32x16 a, F32x16 limit, F32x16 value, F32x16 otherwise) {
  return {_mm256_blendv_ps(otherwise.lo, value.lo, _mm256_cmp_ps(a.lo, limit.lo, _CMP_LT_OQ)),
          _mm256_blendv_ps(otherwise.hi, value.hi, _mm256_cmp_ps(a.hi, limit.hi, _CMP_LT_OQ))};
}

static inline float reduce_add(F32x16 a) {
  const __m256 x = _mm256_add_ps(a.lo, a.hi);
  const __m128 y = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
  const __m128 z = _mm_add_ps(y, _mm_movehl_ps(y, y));
  return _mm_cvtss_f32(_mm_add_ss(z, _mm_movehdup_ps(z)));
}
static inline float reduce_max(F32x16 a) {
  const __m256 x = _mm256_max_ps(a.lo, a.hi);
  const __m128 y = _mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
  const __m128 z = _mm_max_ps(y, _mm_movehl_ps(y, y));
  return _mm_cvtss_f32(_mm_max_ss(z, _mm_movehdup_ps(z)));
}

}  // namespace quarrel::cpu::QUARREL_ISA
