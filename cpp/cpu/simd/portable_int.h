// Integer lanes in plain C++. They define what the other instruction sets must compute.
#pragma once

#include <cstdint>
#include <cstring>

#include "cpu/simd/portable.h"

namespace quarrel::cpu::QUARREL_ISA {

// Tokens that a matrix kernel keeps in registers.
inline constexpr int kRegisterTokens = 4;

struct I32x16 {
  std::int32_t v[16];
};
struct U8x64 {
  std::uint8_t v[64];
};

static inline U8x64 load_u8(const std::uint8_t* p) {
  U8x64 r;
  std::memcpy(r.v, p, sizeof r.v);
  return r;
}
static inline void store_u8(std::uint8_t* p, U8x64 a) { std::memcpy(p, a.v, sizeof a.v); }
// (a >> kShift) & mask per byte; mask < 2^(8 - kShift).
template <int kShift>
static inline U8x64 bits(U8x64 a, int mask) {
  for (auto& byte : a.v) byte = static_cast<std::uint8_t>((byte >> kShift) & mask);
  return a;
}
// a | b << kShift per byte; no bit of b leaves its byte.
template <int kShift>
static inline U8x64 combine(U8x64 a, U8x64 b) {
  for (int i = 0; i < 64; ++i) a.v[i] = static_cast<std::uint8_t>(a.v[i] | b.v[i] << kShift);
  return a;
}

static inline I32x16 zero_i32() { return {}; }
static inline I32x16 broadcast_i32(const std::int32_t* p) {
  I32x16 r;
  for (auto& lane : r.v) lane = *p;
  return r;
}
static inline I32x16 sub(I32x16 a, I32x16 b) {
  for (int i = 0; i < 16; ++i) a.v[i] -= b.v[i];
  return a;
}
static inline I32x16 add(I32x16 a, I32x16 b) {
  for (int i = 0; i < 16; ++i) a.v[i] += b.v[i];
  return a;
}
template <int kShift>
static inline I32x16 shift_left(I32x16 a) {
  for (auto& lane : a.v) lane *= 1 << kShift;
  return a;
}
static inline F32x16 to_float(I32x16 a) {
  F32x16 r;
  for (int i = 0; i < 16; ++i) r.v[i] = static_cast<float>(a.v[i]);
  return r;
}

// acc[i] + sum of w[4 i + k] x[k] over k < 4. Exact; w may exceed 127 only where kWide.
template <bool kWide>
static inline I32x16 dot4(I32x16 acc, U8x64 w, const std::int8_t* x) {
  for (int i = 0; i < 16; ++i)
    for (int k = 0; k < 4; ++k) acc.v[i] += w.v[4 * i + k] * x[k];
  return acc;
}

static inline F32x16 load_u8_f32(const std::uint8_t* p) {
  F32x16 r;
  for (int i = 0; i < 16; ++i) r.v[i] = static_cast<float>(p[i]);
  return r;
}
static inline F32x16 load_s8_f32(const std::int8_t* p) {
  F32x16 r;
  for (int i = 0; i < 16; ++i) r.v[i] = static_cast<float>(p[i]);
  return r;
}

// Half bytes minus 8: the low halves of 16 bytes and the high ones.
static inline void load_nibbles_f32(const std::uint8_t* p, F32x16* low, F32x16* high) {
  for (int i = 0; i < 16; ++i) {
    low->v[i] = static_cast<float>((p[i] & 15) - 8);
    high->v[i] = static_cast<float>((p[i] >> 4) - 8);
  }
}
// The same of 8 bytes: the low halves, then the high ones.
static inline F32x16 load_nibbles_f32(const std::uint8_t* p) {
  F32x16 r;
  for (int i = 0; i < 8; ++i) {
    r.v[i] = static_cast<float>((p[i] & 15) - 8);
    r.v[i + 8] = static_cast<float>((p[i] >> 4) - 8);
  }
  return r;
}

// Whole numbers within 16 bits as 256 high + low, low in [-128, 127]; returns their sum.
static inline std::int32_t store_split(F32x16 a, std::int8_t* high, std::int8_t* low) {
  std::int32_t sum = 0;
  for (int i = 0; i < 16; ++i) {
    const auto q = static_cast<std::int32_t>(a.v[i]);
    const std::int32_t h = (q + 128) >> 8;
    high[i] = static_cast<std::int8_t>(h);
    low[i] = static_cast<std::int8_t>(q - h * 256);
    sum += q;
  }
  return sum;
}

}  // namespace quarrel::cpu::QUARREL_ISA
