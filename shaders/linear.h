// What linear_decode and linear_prefill share: arguments, and what happens to a finished sum.
#pragma once
#include "common.h"
#include "dequantize.h"
#include "params.h"

constant bool kHasBias [[function_constant(kLinearHasBias)]];
constant bool kHasResidual [[function_constant(kLinearHasResidual)]];

// Where a finished sum goes; pointers as LinearBuffer says.
struct LinearOutput {
  device const float* bias;
  device const float* residual;
  device float* out;
  uint n_rows;
  float residual_scale;
};

// Rounds once per operation, written out, so that no compiler has a choice.
inline void store_linear(thread const LinearOutput& to, uint token, uint row, float sum) {
  const ulong place = ulong(token) * to.n_rows + row;
  if (kHasBias) sum += to.bias[row];
  if (kHasResidual) sum = fma(to.residual_scale, sum, to.residual[place]);
  to.out[place] = sum;
}

// Instantiates a kernel template for every format.
#define EACH_BLOCK_TYPE(instantiate)                                                            \
  instantiate(F32) instantiate(F16) instantiate(BF16) instantiate(Q8_0) instantiate(Q4_0)       \
      instantiate(Q4_1) instantiate(Q5_0) instantiate(Q5_1) instantiate(Q2_K) instantiate(Q3_K) \
          instantiate(Q4_K) instantiate(Q5_K) instantiate(Q6_K)
