// Root-mean-square norm (Zhang and Sennrich, "Root Mean Square Layer Normalization", 2019).
#include "common.h"
#include "params.h"

// One threadgroup per row. x, out: [n_rows, n / 4] float4, weight: [n / 4] float4.
kernel void rms_norm(device const float4* x [[buffer(kRmsNormX)]],
                     device const float4* weight [[buffer(kRmsNormWeight)]],
                     device float4* out [[buffer(kRmsNormOut)]],
                     constant RmsNormParams& params [[buffer(kRmsNormParams)]],
                     uint row [[threadgroup_position_in_grid]],
                     uint thread_index [[thread_index_in_threadgroup]],
                     uint n_threads [[threads_per_threadgroup]],
                     uint lane [[thread_index_in_simdgroup]],
                     uint simdgroup [[simdgroup_index_in_threadgroup]],
                     uint n_simdgroups [[simdgroups_per_threadgroup]]) {
  threadgroup float partial[kMaxSimdgroups];
  const uint n4 = params.n / 4;
  device const float4* x_row = x + ulong(row) * n4;
  device float4* out_row = out + ulong(row) * n4;

  float sum = 0.0f;
  for (uint i = thread_index; i < n4; i += n_threads) sum += dot(x_row[i], x_row[i]);
  sum = threadgroup_sum(sum, partial, lane, simdgroup, n_simdgroups);

  const float scale = rsqrt(sum / float(params.n) + params.eps);
  for (uint i = thread_index; i < n4; i += n_threads) out_row[i] = x_row[i] * scale * weight[i];
}

// The residual addition and the norm of its sum: x, y, sum, out: [n_rows, n / 4] float4. A thread
// reads its own elements before it writes them, so sum may be x or y.
kernel void add_rms_norm(device const float4* x [[buffer(kAddRmsNormX)]],
                         device const float4* y [[buffer(kAddRmsNormY)]],
                         device const float4* weight [[buffer(kAddRmsNormWeight)]],
                         device float4* sum [[buffer(kAddRmsNormSum)]],
                         device float4* out [[buffer(kAddRmsNormOut)]],
                         constant AddRmsNormParams& params [[buffer(kAddRmsNormParams)]],
                         uint row [[threadgroup_position_in_grid]],
                         uint thread_index [[thread_index_in_threadgroup]],
                         uint n_threads [[threads_per_threadgroup]],
                         uint lane [[thread_index_in_simdgroup]],
                         uint simdgroup [[simdgroup_index_in_threadgroup]],
                         uint n_simdgroups [[simdgroups_per_threadgroup]]) {
  threadgroup float partial[kMaxSimdgroups];
  const uint n4 = params.n / 4;
  const ulong first = ulong(row) * n4;

  float squares = 0.0f;
  for (uint i = thread_index; i < n4; i += n_threads) {
    const float4 added = x[first + i] + params.scale * y[first + i];
    sum[first + i] = added;
    squares += dot(added, added);
  }
  squares = threadgroup_sum(squares, partial, lane, simdgroup, n_simdgroups);

  const float scale = rsqrt(squares / float(params.n) + params.eps);
  for (uint i = thread_index; i < n4; i += n_threads)
    out[first + i] = sum[first + i] * scale * weight[i];
}
