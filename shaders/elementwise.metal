// Ops that treat every element alike. A thread has four of them.
// grid: threads (ceil(n / 4)), rounded up; threadgroups of any width.
#include "activations.h"
#include "common.h"
#include "params.h"

// Elements [first, first + 4) as far as there are that many.
inline float4 load4(device const float* x, uint first, uint n) {
  if (first + 4 <= n) return *(device const float4*)(x + first);
  float4 four = float4(0);
#pragma unroll(4)
  for (uint i = 0; i < 4; ++i)  // literal, so that the vector stays in registers
    if (first + i < n) four[i] = x[first + i];
  return four;
}

inline void store4(device float* out, uint first, uint n, float4 four) {
  if (first + 4 <= n) {
    *(device float4*)(out + first) = four;
  } else {
#pragma unroll(4)
    for (uint i = 0; i < 4; ++i)
      if (first + i < n) out[first + i] = four[i];
  }
}

// The residual addition: x + factor * y.
kernel void add(device const float* x [[buffer(kElementwiseX)]],
                device const float* y [[buffer(kElementwiseY)]],
                device float* out [[buffer(kElementwiseOut)]],
                constant ElementwiseParams& params [[buffer(kElementwiseParams)]],
                uint index [[thread_position_in_grid]]) {
  const uint i = 4 * index, n = params.n;
  store4(out, i, n, load4(x, i, n) + params.factor * load4(y, i, n));
}

// x * factor
kernel void scale(device const float* x [[buffer(kElementwiseX)]],
                  device float* out [[buffer(kElementwiseOut)]],
                  constant ElementwiseParams& params [[buffer(kElementwiseParams)]],
                  uint index [[thread_position_in_grid]]) {
  const uint i = 4 * index, n = params.n;
  store4(out, i, n, load4(x, i, n) * params.factor);
}

// factor * tanh(x / factor)
kernel void softcap(device const float* x [[buffer(kElementwiseX)]],
                    device float* out [[buffer(kElementwiseOut)]],
                    constant ElementwiseParams& params [[buffer(kElementwiseParams)]],
                    uint index [[thread_position_in_grid]]) {
  const uint i = 4 * index, n = params.n;
  store4(out, i, n, params.factor * precise::tanh(load4(x, i, n) / params.factor));
}

// silu(x) * y (Shazeer, "GLU Variants Improve Transformer", 2020)
kernel void silu_mul(device const float* x [[buffer(kElementwiseX)]],
                     device const float* y [[buffer(kElementwiseY)]],
                     device float* out [[buffer(kElementwiseOut)]],
                     constant ElementwiseParams& params [[buffer(kElementwiseParams)]],
                     uint index [[thread_position_in_grid]]) {
  const uint i = 4 * index, n = params.n;
  store4(out, i, n, silu(load4(x, i, n)) * load4(y, i, n));
}

// gelu(x) * y
kernel void gelu_mul(device const float* x [[buffer(kElementwiseX)]],
                     device const float* y [[buffer(kElementwiseY)]],
                     device float* out [[buffer(kElementwiseOut)]],
                     constant ElementwiseParams& params [[buffer(kElementwiseParams)]],
                     uint index [[thread_position_in_grid]]) {
  const uint i = 4 * index, n = params.n;
  store4(out, i, n, gelu(load4(x, i, n)) * load4(y, i, n));
}
