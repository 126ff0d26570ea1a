#include "cpu/kernels/kernel_functions.h"

namespace quarrel::cpu::QUARREL_ISA {
namespace {

constexpr std::size_t kLanes = 16;

// y[i] = f(a[i], b[i])
template <class F>
void map(const float* a, const float* b, float* y, std::size_t n, F f) {
  std::size_t i = 0;
  for (; i + kLanes <= n; i += kLanes) store(y + i, f(load(a + i), load(b + i)));
  if (i < n) {
    const int left = static_cast<int>(n - i);
    store_partial(y + i, f(load_partial(a + i, left), load_partial(b + i, left)), left);
  }
}

}  // namespace

void silu_mul(const float* gate, const float* up, float* y, std::size_t n) {
  map(gate, up, y, n, [](F32x16 g, F32x16 u) { return mul(mul(g, sigmoid(g)), u); });
}

// 0.5 g (1 + tanh(z)) = g sigmoid(2 z) with z = sqrt(2 / pi) (g + 0.044715 g^3)
// (Hendrycks and Gimpel, "Gaussian Error Linear Units", 2016).
void gelu_mul(const float* gate, const float* up, float* y, std::size_t n) {
  map(gate, up, y, n, [](F32x16 g, F32x16 u) {
    const F32x16 cubic = fma(mul(mul(g, g), g), broadcast(0.044715f), g);
    return mul(mul(g, sigmoid(mul(cubic, broadcast(1.59576912f)))), u);
  });
}

void add(const float* a, const float* b, float* y, float factor, std::size_t n) {
  const F32x16 s = broadcast(factor);
  map(a, b, y, n, [s](F32x16 p, F32x16 q) { return fma(q, s, p); });
}

void scale(const float* x, float* y, float factor, std::size_t n) {
  const F32x16 s = broadcast(factor);
  map(x, x, y, n, [s](F32x16 p, F32x16) { return mul(p, s); });
}

void softcap(const float* x, float* y, float cap, std::size_t n) {
  const F32x16 c = broadcast(cap);
  map(x, x, y, n, [c](F32x16 p, F32x16) { return mul(tanh(div(p, c)), c); });
}

}  // namespace quarrel::cpu::QUARREL_ISA
