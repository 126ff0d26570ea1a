// The first half of a gated feed-forward layer for tokens that are decoded:
// activation(x W_gate^T) * (x W_up^T), both weights of one type. The same bits as linear_decode for
// each of them followed by silu_mul or gelu_mul.
//
// linear_gated_<type>, <type> as in the file ("Q4_K"); arguments: GatedBuffer
//   grid: threadgroups (ceil(n_tokens / kTokensPerPass), ceil(n_rows / kLinearDecodeRows))
//   threads: kLinearThreads
//   function constants: kLinearActivation, kLinearTokensPerPass
#include "activations.h"
#include "mat_vec.h"

constant uint kActivation [[function_constant(kLinearActivation)]];

template <typename Block>
kernel void linear_gated(device const float* x [[buffer(kGatedX)]],
                         device const Block* gate [[buffer(kGatedGate)]],
                         device const Block* up [[buffer(kGatedUp)]],
                         device float* out [[buffer(kGatedOut)]],
                         device const uint* tokens [[buffer(kGatedTokens)]],
                         constant LinearParams& params [[buffer(kGatedParams)]],
                         uint2 group [[threadgroup_position_in_grid]],
                         uint lane [[thread_index_in_simdgroup]],
                         uint simdgroup [[simdgroup_index_in_threadgroup]]) {
  const uint first_token = group.x * kTokensPerPass;
  const uint first_row = (group.y * uint(kLinearSimdgroups) + simdgroup) * kRows;
  Pass pass;
  begin_pass(pass, x, tokens, first_token, params.n_tokens, params.n_cols);
  float gates[kMaxTokens];
  float ups[kMaxTokens];
  _Pragma("clang loop unroll(disable)") for (uint i = 0; i < 2; ++i) {
    multiply_rows(ups, pass, i == 0 ? gate : up, first_row, params.n_rows, params.n_cols, lane);
    if (i == 0) EACH_TOKEN(t, pass.n_tokens) gates[t] = ups[t];
  }
  const uint row = first_row + lane;
  if (lane >= kRows || row >= params.n_rows) return;
  EACH_TOKEN(t, params.n_tokens - first_token) {
    const float activated = kActivation == uint(kActivationSilu) ? silu(gates[t]) : gelu(gates[t]);
    out[ulong(tokens[first_token + t]) * params.n_rows + row] = activated * ups[t];
  }
}

#define LINEAR_GATED(type)                                                                      \
  template [[host_name("linear_gated_" #type)]] kernel void linear_gated<Block##type>(          \
      device const float*, device const Block##type*, device const Block##type*, device float*, \
      device const uint*, constant LinearParams&, uint2, uint, uint);
EACH_BLOCK_TYPE(LINEAR_GATED)
