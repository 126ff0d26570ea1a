#include "cpu/kernels/kernel_functions.h"

namespace quarrel::cpu::QUARREL_ISA {
namespace {

constexpr std::size_t kLanes = 16;

F32x16 load_lanes(const float* p, std::size_t n) {
  return n >= kLanes ? load(p) : load_partial(p, static_cast<int>(n));
}

void normalize(const float* x, float* y, const float* weight, std::size_t width, float eps) {
  F32x16 squares = broadcast(0.0f);
  for (std::size_t i = 0; i < width; i += kLanes) {
    const F32x16 v = load_lanes(x + i, width - i);
    squares = fma(v, v, squares);
  }
  const float mean = reduce_add(squares) / static_cast<float>(width);
  const F32x16 factor = broadcast(1.0f / __builtin_sqrtf(mean + eps));
  for (std::size_t i = 0; i < width; i += kLanes) {
    const std::size_t left = width - i;
    const F32x16 out = mul(mul(load_lanes(x + i, left), factor), load_lanes(weight + i, left));
    if (left >= kLanes) {
      store(y + i, out);
    } else {
      store_partial(y + i, out, static_cast<int>(left));
    }
  }
}

}  // namespace

void rms_norm(const RmsNormArgs& a, std::size_t first_row, std::size_t n_rows) {
  for (std::size_t g = first_row * a.n_groups; g < (first_row + n_rows) * a.n_groups; ++g)
    normalize(a.x + g * a.width, a.y + g * a.width, a.weight, a.width, a.eps);
}

}  // namespace quarrel::cpu::QUARREL_ISA
