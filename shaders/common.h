// Included first by every shader. At run time a shader is one source string: the build concatenates
// this file, params.h and the shader.
#pragma once
#include <metal_stdlib>
using namespace metal;

// The most simdgroups that a threadgroup can have (1024 threads).
constant constexpr uint kMaxSimdgroups = 32;

// The sum over a threadgroup, given to every thread. Adds the simdgroups' sums in ascending order,
// so the result depends on the threadgroup's size alone. `partial` has one element per simdgroup;
// it may be used again only after another barrier.
inline float threadgroup_sum(float value, threadgroup float* partial, uint lane, uint simdgroup,
                             uint n_simdgroups) {
  const float sum = simd_sum(value);
  if (lane == 0) partial[simdgroup] = sum;
  threadgroup_barrier(mem_flags::mem_threadgroup);
  float total = 0.0f;
  for (uint i = 0; i < n_simdgroups; ++i) total += partial[i];
  return total;
}
