// A linear layer for tokens that are decoded: few rows of x, so that reading the weights is what it
// costs. A simdgroup works off kRows rows of W for up to kTokensPerPass rows of x.
//
// Which lane multiplies which columns, and in which order a lane and then the simdgroup adds,
// follow from n_cols alone: other tokens, their number and kTokensPerPass cannot change a token's
// bits.
//
// linear_decode_<type>, <type> as in the file ("Q4_K"); arguments: LinearBuffer
//   grid: threadgroups (ceil(n_tokens / kTokensPerPass), ceil(n_rows / kLinearDecodeRows))
//   threads: kLinearThreads
//   function constants: all of LinearConstant
#include "linear.h"
#include "weight_slices.h"

constant uint kTokensPerPass [[function_constant(kLinearTokensPerPass)]];

constant constexpr uint kRows = uint(kLinearDecodeRows) / uint(kLinearSimdgroups);
constant constexpr uint kMaxTokens = kLinearMaxTokensPerPass;
static_assert(kRows == 4, "written out for four rows");

#define UNROLL _Pragma("clang loop unroll(full)")
// Literal bounds, so that sums become registers before kTokensPerPass is known. `n` is the same in
// the whole threadgroup.
#define EACH_TOKEN(t, n) \
  UNROLL for (uint t = 0; t < kMaxTokens; ++t) if (t < kTokensPerPass && t < n)
#define EACH_ROW(r) UNROLL for (uint r = 0; r < kRows; ++r)

// What a lane adds up: a token's sums for every row.
struct Sums {
  float4 of[kMaxTokens];
};

// Where the rows of W begin that a simdgroup works off.
template <typename Block>
struct Rows {
  device const Block* of[kRows];
};

// The tokens of a pass.
struct Pass {
  device const float* x[kMaxTokens];
  uint n_tokens;
};

METAL_FUNC float dot4(float4 a, float4 b, float sum) {
  return fma(a.w, b.w, fma(a.z, b.z, fma(a.y, b.y, fma(a.x, b.x, sum))));
}

METAL_FUNC float dot8(thread const WeightStep& w, float4 first, float4 second) {
  return dot4(w.second, second, dot4(w.first, first, 0.0f));
}

METAL_FUNC float sum8(float4 a, float4 b) {
  return ((a.x + a.y) + (a.z + a.w)) + ((b.x + b.y) + (b.z + b.w));
}

template <typename Block>
METAL_FUNC void add_slice(thread Sums& sums, thread const Pass& pass,
                          thread const Rows<Block>& rows, uint slice) {
  Slice<Block> w[kRows] = {load_slice(rows.of[0], slice), load_slice(rows.of[1], slice),
                           load_slice(rows.of[2], slice), load_slice(rows.of[3], slice)};
  UNROLL for (uint step = 0; step < Slice<Block>::kSteps; ++step) {
    const uint column = Slice<Block>::column(slice, step);
    WeightStep q[kRows] = {w[0].weights(step), w[1].weights(step), w[2].weights(step),
                           w[3].weights(step)};
    const float4 factors =
        float4(w[0].factor(step), w[1].factor(step), w[2].factor(step), w[3].factor(step));
    const float4 offsets =
        float4(w[0].offset(step), w[1].offset(step), w[2].offset(step), w[3].offset(step));
    EACH_TOKEN(t, pass.n_tokens) {
      device const float* x = pass.x[t] + column;
      const float4 first = *(device const float4*)x;
      const float4 second = *(device const float4*)(x + Slice<Block>::kGap);
      const float4 products = float4(dot8(q[0], first, second), dot8(q[1], first, second),
                                     dot8(q[2], first, second), dot8(q[3], first, second));
      float4 sum = fma(factors, products, sums.of[t]);
      if (Slice<Block>::kHasOffset) sum = fma(offsets, float4(sum8(first, second)), sum);
      sums.of[t] = sum;
    }
  }
}

// Rows of plain numbers that slices do not divide.
template <typename Block>
METAL_FUNC void add_elements(thread Sums& sums, thread const Pass& pass,
                             thread const Rows<Block>& rows, uint lane, uint n_cols) {
  for (uint column = lane; column < n_cols; column += 32) {
    EACH_TOKEN(t, pass.n_tokens) {
      const float x = pass.x[t][column];
      const float4 w = float4(plain_element(rows.of[0], column), plain_element(rows.of[1], column),
                              plain_element(rows.of[2], column), plain_element(rows.of[3], column));
      sums.of[t] = fma(w, float4(x), sums.of[t]);
    }
  }
}

// Adds four values across the simdgroup in a fixed tree; lane i returns the sum of value i % 4.
METAL_FUNC float sum_rows(float4 values, uint lane) {
  const bool odd = (lane & 1) != 0, upper = (lane & 2) != 0;
  const float2 kept = odd ? values.yw : values.xz;
  const float2 pairs = kept + simd_shuffle_xor(odd ? values.xz : values.yw, 1);
  float sum = (upper ? pairs.y : pairs.x) + simd_shuffle_xor(upper ? pairs.x : pairs.y, 2);
  sum += simd_shuffle_xor(sum, 4);
  sum += simd_shuffle_xor(sum, 8);
  return sum + simd_shuffle_xor(sum, 16);
}

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
  const uint row_blocks = params.n_cols / Block::kElements;

  // A row or token beyond the last is read as the last one and not written.
  Rows<Block> rows;
  EACH_ROW(r) rows.of[r] = weight + ulong(min(first_row + r, params.n_rows - 1)) * row_blocks;
  Pass pass;
  pass.n_tokens = min(params.n_tokens - first_token, kTokensPerPass);
  EACH_TOKEN(t, pass.n_tokens) pass.x[t] = x + ulong(tokens[first_token + t]) * params.n_cols;

  Sums sums = {};
  if (params.n_cols % Slice<Block>::kElements == 0) {
    const uint n_slices = params.n_cols / Slice<Block>::kElements;
    for (uint slice = lane; slice < n_slices; slice += 32) add_slice(sums, pass, rows, slice);
  } else {
    add_elements(sums, pass, rows, lane, params.n_cols);
  }

  LinearOutput to = {bias, residual, out, params.n_rows, params.residual_scale};
  EACH_TOKEN(t, pass.n_tokens) {
    const float sum = sum_rows(sums.of[t], lane);
    const uint row = first_row + lane;
    if (lane < kRows && row < params.n_rows) store_linear(to, tokens[first_token + t], row, sum);
  }
}

#define LINEAR_DECODE(type)                                                                     \
  template [[host_name("linear_decode_" #type)]] kernel void linear_decode<Block##type>(        \
      device const float*, device const Block##type*, device const float*, device const float*, \
      device float*, device const uint*, constant LinearParams&, uint2, uint, uint);
EACH_BLOCK_TYPE(LINEAR_DECODE)
