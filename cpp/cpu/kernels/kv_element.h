// Reading cache elements as float32 lanes; see kv_format.h.
#pragma once

#include <cstddef>
#include <cstdint>

#include "cpu/kv_format.h"
#include "cpu/simd/simd.h"

namespace quarrel::cpu::QUARREL_ISA {

// load16: numbers [at, at + 16) of a tile, scales apart. For elements of whole bytes two rows of 16
// follow each other; Element<Q4_0> says how half bytes do.
template <KVElement>
struct Element;

template <>
struct Element<KVElement::F32> {
  static F32x16 load16(const std::byte* data, std::size_t at) {
    return load(reinterpret_cast<const float*>(data) + at);
  }
};

template <>
struct Element<KVElement::F16> {
  static F32x16 load16(const std::byte* data, std::size_t at) {
    return load_f16(reinterpret_cast<const std::uint16_t*>(data) + at);
  }
};

template <>
struct Element<KVElement::BF16> {
  static F32x16 load16(const std::byte* data, std::size_t at) {
    return load_bf16(reinterpret_cast<const std::uint16_t*>(data) + at);
  }
};

template <>
struct Element<KVElement::Q8_0> {
  static F32x16 load16(const std::byte* data, std::size_t at) {
    return load_s8_f32(reinterpret_cast<const std::int8_t*>(data) + at);
  }
};

// at is a multiple of 16: 16 dimensions of V, or 8 tokens' two dimensions of K.
template <>
struct Element<KVElement::Q4_0> {
  static F32x16 load16(const std::byte* data, std::size_t at) {
    return load_nibbles_f32(reinterpret_cast<const std::uint8_t*>(data) + at / 2);
  }
};

// Dimensions d and d + 1, d even, of the 16 tokens of a tile of K.
template <KVElement kElement>
static inline void load_pair(const std::byte* data, std::size_t d, F32x16* two) {
  if constexpr (kElement == KVElement::Q4_0) {
    load_nibbles_f32(reinterpret_cast<const std::uint8_t*>(data) + d / 2 * 16, two, two + 1);
  } else {
    two[0] = Element<kElement>::load16(data, d * 16);
    two[1] = Element<kElement>::load16(data, d * 16 + 16);
  }
}

}  // namespace quarrel::cpu::QUARREL_ISA
