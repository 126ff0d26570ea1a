// The Walsh-Hadamard transform of a head's vector.
//
// Quantised K and V are stored transformed: it spreads a dimension of large values over its group,
// so that one scale fits them all (Ashkboos et al., "QuaRot: Outlier-Free 4-Bit Inference in
// Rotated LLMs", 2024). A score does not change when q is transformed like k, and the output is
// transformed back once.
#pragma once

#include <cstddef>

#include "cpu/kv_format.h"
#include "cpu/simd/simd.h"

namespace quarrel::cpu::QUARREL_ISA {

// Dimensions that are mixed: those that share a scale, so that a group of small values keeps its
// finer one. 16 where head_dim is no multiple of 32.
static inline std::size_t hadamard_size(std::size_t head_dim) {
  return head_dim % kKVGroup == 0 ? kKVGroup : kKVLanes;
}

// In place, times hadamard_size(n): doing it twice multiplies by that.
static inline void hadamard(float* x, std::size_t n) {
  const std::size_t size = hadamard_size(n);
  for (std::size_t apart = 1; apart < size; apart *= 2)
    for (std::size_t i = 0; i < n; i += 2 * apart)
      for (std::size_t j = i; j < i + apart; ++j) {
        const float a = x[j];
        const float b = x[j + apart];
        x[j] = a + b;
        x[j + apart] = a - b;
      }
}

// The transform's inverse, up to the square of its factor: hadamard / hadamard_size, exact.
static inline void inverse_hadamard(float* x, std::size_t n) {
  hadamard(x, n);
  const F32x16 factor = broadcast(1.0f / static_cast<float>(hadamard_size(n)));
  for (std::size_t d = 0; d < n; d += 16) store(x + d, mul(load(x + d), factor));
}

}  // namespace quarrel::cpu::QUARREL_ISA
