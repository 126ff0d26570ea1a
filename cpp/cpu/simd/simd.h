// The lanes of the instruction set this translation unit is compiled for.
//
// A kernel source is compiled once per instruction set with QUARREL_ISA naming it. Everything here
// is static and lives in a namespace of that name: a function compiled for AVX-512 must never be
// the copy that the linker keeps for everybody. For the same reason kernel sources use no
// templates or inline functions of the standard library.
//
// All sets compute the same bits: sixteen lanes everywhere, fused multiply-add where the source
// says fma and nowhere else, reductions folded in one order.
#pragma once

#if defined(QUARREL_ISA_AVX512)
#define QUARREL_ISA avx512
#include "cpu/simd/avx512_int.h"
#elif defined(QUARREL_ISA_AVX2)
#define QUARREL_ISA avx2
#include "cpu/simd/avx2_int.h"
#elif defined(QUARREL_ISA_NEON_DOTPROD)
#define QUARREL_ISA neon_dotprod
#include "cpu/simd/neon_int.h"
#elif defined(QUARREL_ISA_NEON)
#define QUARREL_ISA neon
#include "cpu/simd/neon_int.h"
#else
#define QUARREL_ISA portable
#include "cpu/simd/portable_int.h"
#endif

#if defined(__clang__)
#define QUARREL_UNROLL _Pragma("unroll")
#else
#define QUARREL_UNROLL _Pragma("GCC unroll 16")
#endif

namespace quarrel::cpu::QUARREL_ISA {

// e^x, within 2 units in the last place; 0 below -87.3, saturated above 88.
static inline F32x16 exp(F32x16 x) {
  const F32x16 lowest = broadcast(-87.3f);
  const F32x16 in = min(max(x, lowest), broadcast(88.0f));
  const F32x16 n = round_to_int(mul(in, broadcast(1.44269504f)));
  // x - n ln 2 in two steps: the first product is exact.
  const F32x16 r = fma(n, broadcast(2.12194440e-4f), fma(n, broadcast(-0.693359375f), in));
  F32x16 p = broadcast(1.98412698e-4f);  // Taylor coefficients 1/7!, 1/6!, ...: |r| < 0.35
  p = fma(p, r, broadcast(1.38888889e-3f));
  p = fma(p, r, broadcast(8.33333333e-3f));
  p = fma(p, r, broadcast(4.16666667e-2f));
  p = fma(p, r, broadcast(1.66666667e-1f));
  p = fma(p, r, broadcast(0.5f));
  p = fma(p, r, broadcast(1.0f));
  p = fma(p, r, broadcast(1.0f));
  return select_less(x, lowest, broadcast(0.0f), mul(p, pow2(n)));
}

// 1 / (1 + e^-x)
static inline F32x16 sigmoid(F32x16 x) {
  const F32x16 one = broadcast(1.0f);
  return div(one, add(one, exp(sub(broadcast(0.0f), x))));
}

static inline F32x16 tanh(F32x16 x) {
  return sub(mul(broadcast(2.0f), sigmoid(mul(broadcast(2.0f), x))), broadcast(1.0f));
}

}  // namespace quarrel::cpu::QUARREL_ISA
