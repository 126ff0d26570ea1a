// Included first by every shader. At run time a shader is one source string: the build concatenates
// this file, params.h and the shader.
#pragma once
#include <metal_stdlib>
using namespace metal;

// Lanes of a simdgroup, on every Apple GPU.
constant constexpr uint kSimdWidth = 32;
// The most simdgroups that a threadgroup can have (1024 threads).
constant constexpr uint kMaxSimdgroups = 32;

// The sum over a threadgroup, given to every thread. `partial` has one element per simdgroup. Adds
// the simdgroups' sums in ascending order, so the result depends on the threadgroup's size alone.
inline float threadgroup_sum(float value, threadgroup float* partial, uint lane, uint simdgroup,
                             uint n_simdgroups) {
  const float sum = simd_sum(value);
  if (lane == 0) partial[simdgroup] = sum;
  threadgroup_barrier(mem_flags::mem_threadgroup);
  float total = 0.0f;
  for (uint i = 0; i < n_simdgroups; ++i) total += partial[i];
  return total;
}
