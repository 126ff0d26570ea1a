// A linear layer for tokens that are decoded: few rows of x, so that reading the weights is what it
// costs. A token's bits do not depend on others: see mat_vec.h.
//
// linear_decode_<type>, <type> as in the file ("Q4_K"); arguments: LinearBuffer
//   grid: threadgroups (ceil(n_tokens / kTokensPerPass), ceil(n_rows / kLinearDecodeRows))
//   threads: kLinearThreads
//   function constants: kLinearHasBias, kLinearHasResidual, kLinearTokensPerPass
#include "mat_vec.h"

template <typename Block>
kernel void linear_decode(device const float* x [[buffer(kLinearX)]],
                          device const Block* weight [[buffer(kLinearWeight)]],
                          device const float* bias [[buffer(kLinearBias)]],
                          device const float* residual [[buffer(kLinearResidual)]],
                          device float* out [[buffer(kLinearOut)]],
                          device const uint* tokens [[buffer(kLinearTokens)]],
                          constant LinearParams& params [[buffer(kLinearParams)]],
                          uint2 group [[threadgroup_position_in_grid]],
                          uint lane [[thread_index_in_simdgroup]],
                          uint simdgroup [[simdgroup_index_in_threadgroup]]) {
  const uint first_token = group.x * kTokensPerPass;
  const uint first_row = (group.y * uint(kLinearSimdgroups) + simdgroup) * kRows;
  Pass pass;
  begin_pass(pass, x, tokens, first_token, params.n_tokens, params.n_cols);
  float sums[kMaxTokens];
  multiply_rows(sums, pass, weight, first_row, params.n_rows, params.n_cols, lane);
  const uint row = first_row + lane;
  if (lane >= kRows || row >= params.n_rows) return;
  LinearOutput to = {bias, residual, out, params.n_rows, params.residual_scale};
  EACH_TOKEN(t, params.n_tokens - first_token) {
    store_linear(to, tokens[first_token + t], row, sums[t]);
  }
}

#define LINEAR_DECODE(type)                                                                     \
  template [[host_name("linear_decode_" #type)]] kernel void linear_decode<Block##type>(        \
      device const float*, device const Block##type*, device const float*, device const float*, \
      device float*, device const uint*, constant LinearParams&, uint2, uint, uint);
EACH_BLOCK_TYPE(LINEAR_DECODE)
