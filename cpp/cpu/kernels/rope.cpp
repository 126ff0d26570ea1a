#include "cpu/kernels/kernel_functions.h"

namespace quarrel::cpu::QUARREL_ISA {
namespace {

// Pairs are (first[i * stride], second[i * stride]).
void rotate(const float* x, float* y, std::size_t second, std::size_t stride, std::size_t n_pairs,
            const float* cosines, const float* sines) {
  for (std::size_t i = 0; i < n_pairs; ++i) {
    const float a = x[i * stride];
    const float b = x[i * stride + second];
    y[i * stride] = __builtin_fmaf(a, cosines[i], -(b * sines[i]));
    y[i * stride + second] = __builtin_fmaf(b, cosines[i], a * sines[i]);
  }
}

}  // namespace

void rope(const RopeArgs& a, std::size_t first_token, std::size_t n_tokens) {
  const std::size_t n_pairs = a.n_rotated / 2;
  for (std::size_t t = first_token; t < first_token + n_tokens; ++t) {
    const float* cosines = a.cos_sin + t * a.n_rotated;
    for (std::size_t h = 0; h < a.n_heads; ++h) {
      const std::size_t at = (t * a.n_heads + h) * a.head_dim;
      if (a.interleaved) {
        rotate(a.x + at, a.y + at, 1, 2, n_pairs, cosines, cosines + n_pairs);
      } else {
        rotate(a.x + at, a.y + at, n_pairs, 1, n_pairs, cosines, cosines + n_pairs);
      }
      for (std::size_t i = a.n_rotated; i < a.head_dim; ++i) a.y[at + i] = a.x[at + i];
    }
  }
}

}  // namespace quarrel::cpu::QUARREL_ISA
