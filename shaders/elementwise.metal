// Ops that treat every element alike.
#include "common.h"
#include "params.h"

// The residual addition; one thread per element.
kernel void add(device const float* x [[buffer(kAddX)]], device const float* y [[buffer(kAddY)]],
                device float* out [[buffer(kAddOut)]],
                constant AddParams& params [[buffer(kAddParams)]],
                uint i [[thread_position_in_grid]]) {
  if (i < params.n) out[i] = x[i] + params.scale * y[i];
}
