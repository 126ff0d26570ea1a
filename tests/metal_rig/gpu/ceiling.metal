// What the memory of a GPU gives at most: the measure of all other kernels.
#include <metal_stdlib>
using namespace metal;

// A threadgroup moves four runs of neighbouring words, all loads before the first store.
kernel void copy(device const uint4* from [[buffer(0)]], device uint4* to [[buffer(1)]],
                 uint group [[threadgroup_position_in_grid]],
                 uint thread_index [[thread_index_in_threadgroup]],
                 uint n_threads [[threads_per_threadgroup]]) {
  const ulong first = ulong(group) * n_threads * 4 + thread_index;
  const uint4 a = from[first], b = from[first + n_threads];
  const uint4 c = from[first + 2 * n_threads], d = from[first + 3 * n_threads];
  to[first] = a + 1;
  to[first + n_threads] = b + 1;
  to[first + 2 * n_threads] = c + 1;
  to[first + 3 * n_threads] = d + 1;
}

// Reads alone: writes only what no data can make.
kernel void read(device const uint4* from [[buffer(0)]], device uint* to [[buffer(1)]],
                 uint group [[threadgroup_position_in_grid]],
                 uint thread_index [[thread_index_in_threadgroup]],
                 uint n_threads [[threads_per_threadgroup]]) {
  const ulong first = ulong(group) * n_threads * 8 + thread_index;
  uint4 sum = uint4(0);
#pragma unroll(8)
  for (uint i = 0; i < 8; ++i) sum += from[first + i * n_threads];
  if (sum.x == 0x12345678 && sum.y == 0x9abcdef0 && sum.z == sum.w) to[group] = sum.x;
}
