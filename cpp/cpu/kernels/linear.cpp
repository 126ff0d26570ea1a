// Matrix products. A register holds one input's weights of 16 outputs, and every output adds its
// products in the order of its inputs, however many tokens there are: decode equals prefill.
#include "cpu/kernels/kernel_functions.h"

namespace quarrel::cpu::QUARREL_ISA {
namespace {

constexpr std::size_t kLanes = 16;

// tile[depth][kLinearRows] <- the transposed, dequantised weights of n_rows outputs.
void load_tile(const LinearArgs& a, std::size_t first_row, std::size_t n_rows, std::size_t from,
               std::size_t depth, float* tile, float* row) {
  const std::size_t skip = from / a.block_elements * a.block_bytes;
  for (std::size_t r = 0; r < kLinearRows; ++r) {
    if (r < n_rows) {
      a.dequantize(a.dtype, a.weight + (first_row + r) * a.weight_row_bytes + skip, row, depth);
      for (std::size_t k = 0; k < depth; ++k) tile[k * kLinearRows + r] = row[k];
    } else {
      for (std::size_t k = 0; k < depth; ++k) tile[k * kLinearRows + r] = 0.0f;
    }
  }
}

F32x16 load_lanes(const float* p, std::size_t n) {
  return n >= kLanes ? load(p) : load_partial(p, static_cast<int>(n));
}

void store_lanes(float* p, F32x16 x, std::size_t n) {
  if (n >= kLanes) {
    store(p, x);
  } else if (n > 0) {
    store_partial(p, x, static_cast<int>(n));
  }
}

// Adds tile's products to y for kTokens tokens; y already holds the sum of what came before.
template <int kTokens>
void multiply(const float* tile, std::size_t depth, const float* x, std::size_t x_stride, float* y,
              std::size_t y_stride, std::size_t n_rows) {
  const std::size_t n_low = n_rows < kLanes ? n_rows : kLanes;
  const std::size_t n_high = n_rows - n_low;
  F32x16 low[kTokens];
  F32x16 high[kTokens];
  for (int t = 0; t < kTokens; ++t) {
    low[t] = load_lanes(y + t * y_stride, n_low);
    high[t] = n_high > 0 ? load_lanes(y + t * y_stride + kLanes, n_high) : broadcast(0.0f);
  }
  for (std::size_t k = 0; k < depth; ++k) {
    const F32x16 w_low = load(tile + k * kLinearRows);
    const F32x16 w_high = load(tile + k * kLinearRows + kLanes);
    for (int t = 0; t < kTokens; ++t) {
      const F32x16 in = broadcast(x[t * x_stride + k]);
      low[t] = fma(w_low, in, low[t]);
      high[t] = fma(w_high, in, high[t]);
    }
  }
  for (int t = 0; t < kTokens; ++t) {
    store_lanes(y + t * y_stride, low[t], n_low);
    store_lanes(y + t * y_stride + kLanes, high[t], n_high);
  }
}

void start_from_bias(const LinearArgs& a, std::size_t first_row, std::size_t n_rows) {
  for (std::size_t t = 0; t < a.n_tokens; ++t)
    for (std::size_t r = first_row; r < first_row + n_rows; ++r)
      a.y[t * a.n_out + r] = a.bias != nullptr ? a.bias[r] : 0.0f;
}

}  // namespace

void linear(const LinearArgs& a, std::size_t first_row, std::size_t n_rows, float* scratch) {
  float* tile = scratch;
  float* row = scratch + kLinearRows * kLinearDepth;
  start_from_bias(a, first_row, n_rows);
  for (std::size_t from = 0; from < a.n_in; from += kLinearDepth) {
    const std::size_t depth = a.n_in - from < kLinearDepth ? a.n_in - from : kLinearDepth;
    load_tile(a, first_row, n_rows, from, depth, tile, row);
    const float* x = a.x + from;
    float* y = a.y + first_row;
    std::size_t left = a.n_tokens;
    for (; left >= 8; left -= 8, x += 8 * a.n_in, y += 8 * a.n_out)
      multiply<8>(tile, depth, x, a.n_in, y, a.n_out, n_rows);
    for (; left >= 2; left -= 2, x += 2 * a.n_in, y += 2 * a.n_out)
      multiply<2>(tile, depth, x, a.n_in, y, a.n_out, n_rows);
    if (left > 0) multiply<1>(tile, depth, x, a.n_in, y, a.n_out, n_rows);
  }
}

}  // namespace quarrel::cpu::QUARREL_ISA
