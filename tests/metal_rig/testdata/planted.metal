// Kernels with one mistake each; the rig has to find every one.
#include <metal_stdlib>
using namespace metal;

kernel void missing_barrier(device uint* out [[buffer(0)]],
                            uint i [[thread_index_in_threadgroup]],
                            uint n [[threads_per_threadgroup]]) {
  threadgroup uint shared[128];
  shared[i] = i + 1;
  out[i] = shared[(i + 1) % n];
}

kernel void missing_simdgroup_barrier(device uint* out [[buffer(0)]],
                                      threadgroup uint* shared [[threadgroup(0)]],
                                      uint i [[thread_index_in_threadgroup]]) {
  shared[i] = i + 1;
  out[i] = shared[i ^ 1];
}

kernel void divergent_barrier(device uint* out [[buffer(0)]],
                              uint i [[thread_index_in_threadgroup]]) {
  if (i < 40) threadgroup_barrier(mem_flags::mem_threadgroup);
  out[i] = i;
}

kernel void two_barriers(device uint* out [[buffer(0)]],
                         uint i [[thread_index_in_threadgroup]]) {
  if (i < 64) {
    threadgroup_barrier(mem_flags::mem_threadgroup);
    out[i] = i;
  } else {
    threadgroup_barrier(mem_flags::mem_threadgroup);
    out[i] = 2 * i;
  }
}

kernel void divergent_simd(device uint* out [[buffer(0)]],
                           uint i [[thread_index_in_threadgroup]]) {
  uint x = i;
  if (i % 32 < 16) x = simd_sum(x);
  out[i] = x;
}

static __attribute__((noinline)) uint helper(uint x) { return simd_sum(x) + 1; }
kernel void divergent_helper(device uint* out [[buffer(0)]],
                             uint i [[thread_index_in_threadgroup]]) {
  uint x = i;
  if (i % 2 == 0) {
    x = helper(i) * 2;
  } else {
    x = helper(i * 3) - 1;
  }
  out[i] = x;
}

kernel void divergent_loop(device uint* out [[buffer(0)]],
                           uint i [[thread_index_in_threadgroup]]) {
  uint x = i;
  for (uint k = 0; k <= i % 2; ++k) x = simd_max(x);
  out[i] = x;
}

kernel void early_return(device uint* out [[buffer(0)]],
                         uint i [[thread_index_in_threadgroup]]) {
  if (i == 5) return;
  out[i] = simd_sum(i);
}

kernel void write_past_end(device uint* out [[buffer(0)]], uint i [[thread_position_in_grid]]) {
  out[i + 1] = i;
}

kernel void read_past_end(device uint* out [[buffer(0)]], device const uint* in [[buffer(1)]],
                          uint i [[thread_position_in_grid]]) {
  out[i] = in[i + 64];
}

kernel void write_before_start(device uint* out [[buffer(0)]],
                               uint i [[thread_position_in_grid]]) {
  out[long(i) - 1] = i;
}

kernel void write_to_const(device uint* out [[buffer(0)]], device const uint* in [[buffer(1)]],
                           uint i [[thread_position_in_grid]]) {
  out[i] = 0;
  ((device uint*)in)[i] = i;
}

kernel void endless(device uint* out [[buffer(0)]], device const uint* in [[buffer(1)]],
                    uint i [[thread_position_in_grid]]) {
  uint x = i;
  while (in[0] == 0) x = x * 3 + 1 + *(volatile device uint*)&out[i];
  out[i] = x;
}

kernel void division_by_zero(device uint* out [[buffer(0)]], device const uint* in [[buffer(1)]],
                             uint i [[thread_position_in_grid]]) {
  out[i] = 7 / in[i];
}

kernel void uninitialised(device float* out [[buffer(0)]],
                          uint i [[thread_index_in_threadgroup]]) {
  threadgroup float shared[32];
  threadgroup_barrier(mem_flags::mem_threadgroup);
  out[i] = shared[i];
}

kernel void too_much_threadgroup_memory(device uint* out [[buffer(0)]],
                                        uint i [[thread_index_in_threadgroup]]) {
  threadgroup uint shared[8193];
  shared[i] = i;
  out[i] = shared[i];
}

// Every threadgroup adds to the same element without an atomic.
kernel void race_between_threadgroups(device uint* out [[buffer(0)]],
                                      uint i [[thread_index_in_threadgroup]]) {
  if (i == 0) out[0] += 1;
}

// Reads what the next threadgroup writes.
kernel void reads_neighbour(device uint* out [[buffer(0)]], uint i [[thread_position_in_grid]],
                            uint n [[threads_per_grid]]) {
  out[i] = i < n - 32 ? out[i + 32] + 1 : 0;
}
