// Reading and writing cache elements as float32 lanes.
#pragma once

#include "cpu/kernels.h"
#include "cpu/simd/simd.h"

namespace quarrel::cpu::QUARREL_ISA {

template <KVElement>
struct Element;

template <>
struct Element<KVElement::F32> {
  using Type = float;
  static F32x16 load16(const Type* p) { return load(p); }
  static void store16(Type* p, F32x16 x) { store(p, x); }
};

template <>
struct Element<KVElement::F16> {
  using Type = std::uint16_t;
  static F32x16 load16(const Type* p) { return load_f16(p); }
  static void store16(Type* p, F32x16 x) { store_f16(p, x); }
};

}  // namespace quarrel::cpu::QUARREL_ISA
