// Matrix products of weights that are not quantised. Every output adds its products in the order
// of its inputs.
#include "cpu/kernels/kernel_functions.h"
#include "cpu/kernels/packed_weights.h"

namespace quarrel::cpu::QUARREL_ISA {
namespace {

constexpr std::size_t kLanes = 16;

struct F32Weights {
  using Type = float;
  static F32x16 load16(const Type* p) { return load(p); }
};
struct F16Weights {
  using Type = std::uint16_t;
  static F32x16 load16(const Type* p) { return load_f16(p); }
};
struct BF16Weights {
  using Type = std::uint16_t;
  static F32x16 load16(const Type* p) { return load_bf16(p); }
};

template <class W, int kTokens>
void multiply_tokens(const LinearArgs& a, const typename W::Type* tile, const float* x, float* y,
                     F32x16 bias, std::size_t n) {
  F32x16 sums[kTokens];
  QUARREL_UNROLL
  for (int t = 0; t < kTokens; ++t) sums[t] = bias;
  for (std::size_t k = 0; k < a.n_in; ++k) {
    const F32x16 w = W::load16(tile + k * kLanes);
    QUARREL_UNROLL
    for (int t = 0; t < kTokens; ++t)
      sums[t] = fma(w, broadcast(x[static_cast<std::size_t>(t) * a.n_in + k]), sums[t]);
  }
  for (int t = 0; t < kTokens; ++t) {
    float* to = y + static_cast<std::size_t>(t) * a.n_out;
    if (n == kLanes) {
      store(to, sums[t]);
    } else {
      store_partial(to, sums[t], static_cast<int>(n));
    }
  }
}

template <class W>
void multiply(const LinearArgs& a, const LinearItem& item) {
  const std::size_t tile_bytes = packed_tile_bytes(a.dtype, a.n_in);
  const auto* tile = reinterpret_cast<const typename W::Type*>(a.packed + item.tile * tile_bytes);
  const std::size_t at = item.tile * kTileOutputs;
  const std::size_t n = a.n_out - at < kLanes ? a.n_out - at : kLanes;
  F32x16 bias = broadcast(0.0f);
  if (a.bias != nullptr)
    bias = n == kLanes ? load(a.bias + at) : load_partial(a.bias + at, static_cast<int>(n));
  const float* x = a.x + item.first_token * a.n_in;
  float* y = a.y + item.first_token * a.n_out + at;
  std::size_t left = item.n_tokens;
  for (; left >= 8; left -= 8, x += 8 * a.n_in, y += 8 * a.n_out)
    multiply_tokens<W, 8>(a, tile, x, y, bias, n);
  for (; left >= 2; left -= 2, x += 2 * a.n_in, y += 2 * a.n_out)
    multiply_tokens<W, 2>(a, tile, x, y, bias, n);
  if (left > 0) multiply_tokens<W, 1>(a, tile, x, y, bias, n);
}

}  // namespace

void linear_float(const LinearArgs& a, const LinearItem& item) {
  if (a.dtype == DType::F32) return multiply<F32Weights>(a, item);
  if (a.dtype == DType::F16) return multiply<F16Weights>(a, item);
  multiply<BF16Weights>(a, item);
}

}  // namespace quarrel::cpu::QUARREL_ISA
