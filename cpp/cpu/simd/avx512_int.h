// Integer lanes in AVX-512 registers; products by VNNI.
#pragma once

#include <immintrin.h>

#include <cstdint>

#include "cpu/simd/avx512.h"

namespace quarrel::cpu::QUARREL_ISA {

inline constexpr int kRegisterTokens = 8;

struct I32x16 {
  __m512i v;
};
struct U8x64 {
  __m512i v;
};

static inline U8x64 load_u8(const std::uint8_t* p) { return {_mm512_loadu_si512(p)}; }
static inline void store_u8(std::uint8_t* p, U8x64 a) { _mm512_storeu_si512(p, a.v); }
template <int kShift>
static inline U8x64 bits(U8x64 a, int mask) {
  const __m512i masks = _mm512_set1_epi8(static_cast<char>(mask));
  if constexpr (kShift == 0) return {_mm512_and_si512(a.v, masks)};
  return {_mm512_and_si512(_mm512_srli_epi16(a.v, kShift), masks)};
}
template <int kShift>
static inline U8x64 combine(U8x64 a, U8x64 b) {
  return {_mm512_or_si512(a.v, _mm512_slli_epi16(b.v, kShift))};
}

static inline I32x16 zero_i32() { return {_mm512_setzero_si512()}; }
static inline I32x16 broadcast_i32(const std::int32_t* p) { return {_mm512_set1_epi32(*p)}; }
static inline I32x16 sub(I32x16 a, I32x16 b) { return {_mm512_sub_epi32(a.v, b.v)}; }
static inline I32x16 add(I32x16 a, I32x16 b) { return {_mm512_add_epi32(a.v, b.v)}; }
template <int kShift>
static inline I32x16 shift_left(I32x16 a) {
  return {_mm512_slli_epi32(a.v, kShift)};
}
static inline F32x16 to_float(I32x16 a) { return {_mm512_cvtepi32_ps(a.v)}; }

template <bool kWide>
static inline I32x16 dot4(I32x16 acc, U8x64 w, const std::int8_t* x) {
  std::int32_t four;
  __builtin_memcpy(&four, x, sizeof four);
  return {_mm512_dpbusd_epi32(acc.v, w.v, _mm512_set1_epi32(four))};
}

static inline F32x16 load_u8_f32(const std::uint8_t* p) {
  const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
  return {_mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(bytes))};
}

namespace detail {

static inline F32x16 signed_bytes(__m128i bytes) {
  return {_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(bytes))};
}
static inline __m128i low_nibbles(__m128i bytes) {
  return _mm_sub_epi8(_mm_and_si128(bytes, _mm_set1_epi8(15)), _mm_set1_epi8(8));
}

}  // namespace detail

static inline F32x16 load_s8_f32(const std::int8_t* p) {
  return detail::signed_bytes(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
}

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
  const __m512i q = _mm512_cvttps_epi32(a.v);
  const __m512i h = _mm512_srai_epi32(_mm512_add_epi32(q, _mm512_set1_epi32(128)), 8);
  const __m512i l = _mm512_sub_epi32(q, _mm512_slli_epi32(h, 8));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(high), _mm512_cvtepi32_epi8(h));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(low), _mm512_cvtepi32_epi8(l));
  return _mm512_reduce_add_epi32(q);
}

}  // namespace quarrel::cpu::QUARREL_ISA
