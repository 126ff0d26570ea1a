// A linear layer for the tokens of a prompt: many rows of x, so that arithmetic is what it costs. A
// threadgroup makes a tile of kTileTokens x kTileRows results with simdgroup matrices; W is
// expanded into threadgroup memory, kDepth columns at a time.
//
// x and W stay float32, so that nothing is rounded but sums; half arithmetic is no faster on M1
// (philipturner/metal-benchmarks), and later GPUs are unknown to us. A result adds its columns in
// ascending order, eight at a time, whatever its place in a tile: other tokens and their number
// cannot change its bits.
//
// linear_prefill_<type>, <type> as in the file ("Q4_K"); arguments: LinearBuffer
//   grid: threadgroups (ceil(n_tokens / kLinearPrefillTokens), ceil(n_rows / kLinearPrefillRows))
//   threads: kLinearThreads
//   function constants: kLinearHasBias, kLinearHasResidual
#include "linear.h"

constant constexpr uint kTileRows = kLinearPrefillRows;
constant constexpr uint kTileTokens = kLinearPrefillTokens;
constant constexpr uint kDepth = kLinearPrefillDepth;
constant constexpr uint kStride = kDepth + 8;  // floats from one row of a tile to the next
static_assert((kTileRows + kTileTokens) * kStride * 4 == linear_prefill_memory(), "params.h");
constant constexpr uint kOutStride = kTileRows + 8;
static_assert(kTileTokens * kOutStride <= kTileRows * kStride, "results take the place of weights");

// A simdgroup's share of the tile: all tokens, 16 rows of W.
constant constexpr uint kTokenMatrices = kTileTokens / 8;
constant constexpr uint kRowMatrices = kTileRows / uint(kLinearSimdgroups) / 8;

#define UNROLL _Pragma("clang loop unroll(full)")

// Columns [column, column + 16) of a row as floats, zeros beyond n_cols.
template <typename Block>
inline void stage_weights(device const Block* row, uint column, uint n_cols,
                          threadgroup float* to) {
  float values[16];
  dequantize16_padded(row, column / 16, n_cols, values);
  threadgroup float4* to4 = (threadgroup float4*)to;
  UNROLL for (uint i = 0; i < 4; ++i) {
    to4[i] = float4(values[4 * i], values[4 * i + 1], values[4 * i + 2], values[4 * i + 3]);
  }
}

// Columns [column, column + 8) of a token, zeros beyond n_cols.
inline void stage_token(device const float* x, uint column, uint n_cols, threadgroup float* to) {
  threadgroup float4* to4 = (threadgroup float4*)to;
  if (n_cols % 4 == 0 && column + 8 <= n_cols) {
    device const float4* from = (device const float4*)(x + column);
    to4[0] = from[0];
    to4[1] = from[1];
  } else {
    for (uint i = 0; i < 8; ++i) to[i] = column + i < n_cols ? x[column + i] : 0.0f;
  }
}

template <typename Block>
kernel void linear_prefill(device const float* x [[buffer(kLinearX)]],
                           device const Block* weight [[buffer(kLinearWeight)]],
                           device const float* bias [[buffer(kLinearBias)]],
                           device const float* residual [[buffer(kLinearResidual)]],
                           device float* out [[buffer(kLinearOut)]],
                           device const uint* tokens [[buffer(kLinearTokens)]],
                           constant LinearParams& params [[buffer(kLinearParams)]],
                           uint2 group [[threadgroup_position_in_grid]],
                           uint thread_index [[thread_index_in_threadgroup]],
                           uint simdgroup [[simdgroup_index_in_threadgroup]]) {
  threadgroup float4 w_memory[kTileRows * kStride / 4];  // float4: aligned to 16 bytes
  threadgroup float4 x_memory[kTileTokens * kStride / 4];
  threadgroup float* w_tile = (threadgroup float*)w_memory;
  threadgroup float* x_tile = (threadgroup float*)x_memory;
  const uint first_token = group.x * kTileTokens;
  const uint first_row = group.y * kTileRows;
  const uint n_tokens = min(params.n_tokens - first_token, kTileTokens);
  const uint n_rows = min(params.n_rows - first_row, kTileRows);

  // What this thread brings in: 16 weights of one row and 8 columns of one token. Beyond the last
  // row or token it is the last one again, whose results are not written.
  const uint w_row = thread_index / 2, w_part = thread_index % 2 * 16;
  const uint x_row = thread_index / 4, x_part = thread_index % 4 * 8;
  device const Block* w_from =
      weight + ulong(first_row + min(w_row, n_rows - 1)) * (params.n_cols / Block::kElements);
  device const float* x_from =
      x + ulong(tokens[first_token + min(x_row, n_tokens - 1)]) * params.n_cols;

  simdgroup_float8x8 sums[kTokenMatrices][kRowMatrices];
  UNROLL for (uint i = 0; i < kTokenMatrices; ++i) {
    UNROLL for (uint j = 0; j < kRowMatrices; ++j) {
      sums[i][j] = make_filled_simdgroup_matrix<float, 8>(0.0f);
    }
  }
  threadgroup const float* w_own = w_tile + simdgroup * kRowMatrices * 8 * kStride;

  for (uint column = 0; column < params.n_cols; column += kDepth) {
    threadgroup_barrier(mem_flags::mem_threadgroup);
    stage_weights(w_from, column + w_part, params.n_cols, w_tile + w_row * kStride + w_part);
    stage_token(x_from, column + x_part, params.n_cols, x_tile + x_row * kStride + x_part);
    threadgroup_barrier(mem_flags::mem_threadgroup);
    UNROLL for (uint k = 0; k < kDepth; k += 8) {
      simdgroup_float8x8 w[kRowMatrices];
      UNROLL for (uint j = 0; j < kRowMatrices; ++j) {
        simdgroup_load(w[j], w_own + j * 8 * kStride + k, kStride, ulong2(0), true);
      }
      UNROLL for (uint i = 0; i < kTokenMatrices; ++i) {
        if (i * 8 < n_tokens) {  // uniform
          simdgroup_float8x8 a;
          simdgroup_load(a, x_tile + i * 8 * kStride + k, kStride);
          UNROLL for (uint j = 0; j < kRowMatrices; ++j) {
            simdgroup_multiply_accumulate(sums[i][j], a, w[j], sums[i][j]);
          }
        }
      }
    }
  }

  // Through threadgroup memory, since which lane holds which result is the GPU's secret.
  threadgroup_barrier(mem_flags::mem_threadgroup);
  UNROLL for (uint i = 0; i < kTokenMatrices; ++i) {
    UNROLL for (uint j = 0; j < kRowMatrices; ++j) {
      const uint row = (simdgroup * kRowMatrices + j) * 8;
      simdgroup_store(sums[i][j], w_tile + i * 8 * kOutStride + row, kOutStride);
    }
  }
  threadgroup_barrier(mem_flags::mem_threadgroup);
  LinearOutput to = {bias, residual, out, params.n_rows, params.residual_scale};
  const uint row = thread_index % kTileRows;
  for (uint t = thread_index / kTileRows; t < n_tokens; t += uint(kLinearThreads) / kTileRows) {
    if (row < n_rows) {
      store_linear(to, tokens[first_token + t], first_row + row, w_tile[t * kOutStride + row]);
    }
  }
}

#define LINEAR_PREFILL(type)                                                                    \
  template [[host_name("linear_prefill_" #type)]] kernel void linear_prefill<Block##type>(      \
      device const float*, device const Block##type*, device const float*, device const float*, \
      device float*, device const uint*, constant LinearParams&, uint2, uint, uint);
EACH_BLOCK_TYPE(LINEAR_PREFILL)
