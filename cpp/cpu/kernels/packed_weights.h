// Reading packed tiles into registers; see packing/packed_format.h.
#pragma once

#include "cpu/packing/packed_format.h"
#include "cpu/simd/simd.h"

namespace quarrel::cpu::QUARREL_ISA {

inline constexpr std::size_t kPlaneBytes = 64;

// Sub-blocks of 32 inputs with scales of their own.
constexpr int subs_of(ScaleLayout s) {
  return s == ScaleLayout::Sub16 || s == ScaleLayout::Sub16Min ? 2 : 1;
}
constexpr bool has_minimum(ScaleLayout s) {
  return s != ScaleLayout::Block && s != ScaleLayout::Sub16;
}

namespace detail {

template <int kFrom>
static inline void add_one_bits(const std::uint8_t* plane, U8x64* w) {
  const U8x64 high = load_u8(plane);
  w[0] = combine<kFrom>(w[0], bits<0>(high, 1));
  w[1] = combine<kFrom>(w[1], bits<1>(high, 1));
  w[2] = combine<kFrom>(w[2], bits<2>(high, 1));
  w[3] = combine<kFrom>(w[3], bits<3>(high, 1));
  w[4] = combine<kFrom>(w[4], bits<4>(high, 1));
  w[5] = combine<kFrom>(w[5], bits<5>(high, 1));
  w[6] = combine<kFrom>(w[6], bits<6>(high, 1));
  w[7] = combine<kFrom>(w[7], bits<7>(high, 1));
}

static inline void two_bits(const std::uint8_t* planes, U8x64* w) {
  QUARREL_UNROLL
  for (int plane = 0; plane < 2; ++plane) {
    const U8x64 four = load_u8(planes + static_cast<std::size_t>(plane) * kPlaneBytes);
    w[4 * plane + 0] = bits<0>(four, 3);
    w[4 * plane + 1] = bits<2>(four, 3);
    w[4 * plane + 2] = bits<4>(four, 3);
    w[4 * plane + 3] = bits<6>(four, 3);
  }
}

}  // namespace detail

// The 8 quads of 32 inputs.
template <int kBits>
static inline void unpack(const std::uint8_t* planes, U8x64* w) {
  if constexpr (kBits == 8) {
    QUARREL_UNROLL
    for (std::size_t g = 0; g < 8; ++g) w[g] = load_u8(planes + g * kPlaneBytes);
  } else if constexpr (kBits < 4) {
    detail::two_bits(planes, w);
    if constexpr (kBits == 3) detail::add_one_bits<2>(planes + 2 * kPlaneBytes, w);
  } else {
    QUARREL_UNROLL
    for (std::size_t i = 0; i < 4; ++i) {
      const U8x64 pair = load_u8(planes + i * kPlaneBytes);
      w[i] = bits<0>(pair, 15);
      w[i + 4] = bits<4>(pair, 15);
    }
    if constexpr (kBits == 5) detail::add_one_bits<4>(planes + 4 * kPlaneBytes, w);
    if constexpr (kBits == 6) {
      U8x64 high[8];
      detail::two_bits(planes + 4 * kPlaneBytes, high);
      QUARREL_UNROLL
      for (int g = 0; g < 8; ++g) w[g] = combine<4>(w[g], high[g]);
    }
  }
}

static inline F32x16 negate(F32x16 a) { return sub(broadcast(0.0f), a); }

// Scales and minimums (to be added) of the sub-blocks of inputs [32 b, 32 b + 32). All products
// are exact.
template <ScaleLayout kScales>
static inline void load_scales(const std::uint8_t* scales, std::size_t b, F32x16* scale,
                               F32x16* minimum) {
  const auto f16 = [](const std::uint8_t* p) {
    return load_f16(reinterpret_cast<const std::uint16_t*>(p));
  };
  if constexpr (kScales == ScaleLayout::Block || kScales == ScaleLayout::BlockMin) {
    const std::uint8_t* p = scales + b * packed_scale_bytes(kScales);
    scale[0] = f16(p);
    if constexpr (kScales == ScaleLayout::BlockMin) minimum[0] = f16(p + 32);
  } else {
    const std::uint8_t* p = scales + b / 8 * packed_scale_bytes(kScales);
    const std::size_t at = b % 8;
    const F32x16 d = f16(p);
    if constexpr (kScales == ScaleLayout::Sub32Min) {
      scale[0] = mul(d, load_u8_f32(p + 64 + at * 16));
      minimum[0] = mul(negate(f16(p + 32)), load_u8_f32(p + 64 + 128 + at * 16));
    } else if constexpr (kScales == ScaleLayout::Sub16) {
      for (std::size_t s = 0; s < 2; ++s)
        scale[s] =
            mul(d, load_s8_f32(reinterpret_cast<const std::int8_t*>(p + 32 + (2 * at + s) * 16)));
    } else {
      const F32x16 dmin = negate(f16(p + 32));
      for (std::size_t s = 0; s < 2; ++s) {
        const F32x16 both = load_u8_f32(p + 64 + (2 * at + s) * 16);
        const F32x16 high =  // the fraction, at most 7.5 / 16, rounds away
            round_to_int(mul(sub(both, broadcast(7.5f)), broadcast(0.0625f)));
        scale[s] = mul(d, fma(high, broadcast(-16.0f), both));
        minimum[s] = mul(dmin, high);
      }
    }
  }
}

}  // namespace quarrel::cpu::QUARREL_ISA
