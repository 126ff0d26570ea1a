// Integer lanes in pairs of AVX2 registers.
#pragma once

#include <immintrin.h>

#include <cstdint>

#include "cpu/simd/avx2.h"

namespace quarrel::cpu::QUARREL_ISA {

inline constexpr int kRegisterTokens = 2;

struct I32x16 {
  __m256i lo, hi;
};
struct U8x64 {
  __m256i lo, hi;
};

static inline U8x64 load_u8(const std::uint8_t* p) {
  const auto* q = reinterpret_cast<const __m256i*>(p);
  return {_mm256_loadu_si256(q), _mm256_loadu_si256(q + 1)};
}
static inline void store_u8(std::uint8_t* p, U8x64 a) {
  auto* q = reinterpret_cast<__m256i*>(p);
  _mm256_storeu_si256(q, a.lo);
  _mm256_storeu_si256(q + 1, a.hi);
}
template <int kShift>
static inline U8x64 bits(U8x64 a, int mask) {
  const __m256i masks = _mm256_set1_epi8(static_cast<char>(mask));
  return {_mm256_and_si256(_mm256_srli_epi16(a.lo, kShift), masks),
          _mm256_and_si256(_mm256_srli_epi16(a.hi, kShift), masks)};
}
template <int kShift>
static inline U8x64 combine(U8x64 a, U8x64 b) {
  return {_mm256_or_si256(a.lo, _mm256_slli_epi16(b.lo, kShift)),
          _mm256_or_si256(a.hi, _mm256_slli_epi16(b.hi, kShift))};
}

static inline I32x16 zero_i32() { return {_mm256_setzero_si256(), _mm256_setzero_si256()}; }
static inline I32x16 broadcast_i32(const std::int32_t* p) {
  const __m256i x = _mm256_set1_epi32(*p);
  return {x, x};
}
static inline I32x16 sub(I32x16 a, I32x16 b) {
  return {_mm256_sub_epi32(a.lo, b.lo), _mm256_sub_epi32(a.hi, b.hi)};
}
static inline I32x16 add(I32x16 a, I32x16 b) {
  return {_mm256_add_epi32(a.lo, b.lo), _mm256_add_epi32(a.hi, b.hi)};
}
template <int kShift>
static inline I32x16 shift_left(I32x16 a) {
  return {_mm256_slli_epi32(a.lo, kShift), _mm256_slli_epi32(a.hi, kShift)};
}
static inline F32x16 to_float(I32x16 a) {
  return {_mm256_cvtepi32_ps(a.lo), _mm256_cvtepi32_ps(a.hi)};
}

namespace detail {

// Sums of four products. Pairs are added in 16 bits, which saturate: 2 * 127 * 128 just fits, so
// wide weights go in two halves, of which each pair holds one product.
template <bool kWide>
static inline __m256i dot4(__m256i acc, __m256i w, __m256i x) {
  const __m256i ones = _mm256_set1_epi16(1);
  if constexpr (kWide) {
    const __m256i even = _mm256_and_si256(w, _mm256_set1_epi16(0x00ff));
    const __m256i odd = _mm256_andnot_si256(_mm256_set1_epi16(0x00ff), w);
    acc = _mm256_add_epi32(acc, _mm256_madd_epi16(_mm256_maddubs_epi16(even, x), ones));
    return _mm256_add_epi32(acc, _mm256_madd_epi16(_mm256_maddubs_epi16(odd, x), ones));
  }
  return _mm256_add_epi32(acc, _mm256_madd_epi16(_mm256_maddubs_epi16(w, x), ones));
}

}  // namespace detail

template <bool kWide>
static inline I32x16 dot4(I32x16 acc, U8x64 w, const std::int8_t* x) {
  std::int32_t four;
  __builtin_memcpy(&four, x, sizeof four);
  const __m256i in = _mm256_set1_epi32(four);
  return {detail::dot4<kWide>(acc.lo, w.lo, in), detail::dot4<kWide>(acc.hi, w.hi, in)};
}

static inline F32x16 load_u8_f32(const std::uint8_t* p) {
  const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
  return {_mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(bytes)),
          _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_srli_si128(bytes, 8)))};
}

namespace detail {

static inline F32x16 signed_bytes(__m128i bytes) {
  return {_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes)),
          _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_srli_si128(bytes, 8)))};
}
static inline __m128i low_nibbles(__m128i bytes) {
  return _mm_sub_epi8(_mm_and_si128(bytes, _mm_set1_epi8(15)), _mm_set1_epi8(8));
}

}  // namespace detail

static inline F32x16 load_s8_f32(const std::int8_t* p) {
  return detail::signed_bytes(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
}

namespace detail {

// The lowest byte of each of 16 lanes whose values fit in one.
static inline void store_low_bytes(std::int8_t* to, __m256i lo, __m256i hi) {
  const __m256i words = _mm256_permute4x64_epi64(_mm256_packs_epi32(lo, hi), 0xd8);
  const __m128i bytes =
      _mm_packs_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(to), bytes);
}

}  // namespace detail

static inline void load_nibbles_f32(const std::uint8_t* p, F32x16* low, F32x16* high) {
  const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
  *low = detail::signed_bytes(detail::low_nibbles(bytes));
  *high = detail::signed_bytes(detail::low_nibbles(_mm_srli_epi16(bytes, 4)));
}
static inline F32x16 load_nibbles_f32(const std::uint8_t* p) {
  const __m128i bytes = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(p));
  const __m128i both = _mm_unpacklo_epi64(bytes, _mm_srli_epi16(bytes, 4));
  return detail::signed_bytes(detail::low_nibbles(both));
}

static inline std::int32_t store_split(F32x16 a, std::int8_t* high, std::int8_t* low) {
  const __m256i round = _mm256_set1_epi32(128);
  const __m256i q0 = _mm256_cvttps_epi32(a.lo);
  const __m256i q1 = _mm256_cvttps_epi32(a.hi);
  const __m256i h0 = _mm256_srai_epi32(_mm256_add_epi32(q0, round), 8);
  const __m256i h1 = _mm256_srai_epi32(_mm256_add_epi32(q1, round), 8);
  detail::store_low_bytes(high, h0, h1);
  detail::store_low_bytes(low, _mm256_sub_epi32(q0, _mm256_slli_epi32(h0, 8)),
                          _mm256_sub_epi32(q1, _mm256_slli_epi32(h1, 8)));
  const __m256i s = _mm256_add_epi32(q0, q1);
  __m128i t = _mm_add_epi32(_mm256_castsi256_si128(s), _mm256_extracti128_si256(s, 1));
  t = _mm_add_epi32(t, _mm_shuffle_epi32(t, 0x4e));
  return _mm_cvtsi128_si32(_mm_add_epi32(t, _mm_shuffle_epi32(t, 0xb1)));
}

}  // namespace quarrel::cpu::QUARREL_ISA
