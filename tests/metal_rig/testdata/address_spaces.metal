#include <metal_stdlib>
using namespace metal;
struct Params {
  uint n;
};
constant uint kWidth [[function_constant(0)]];
constant constexpr uint kLanes = 32;
constant float kTable[2] = {1.0f, 2.0f};

static float first(thread const float* p) { return p[0]; }
static float any_as(const float* p) { return p[0]; }  // BAD: without an address space
static void swap(thread float& a, float& b) { a = b; }  // BAD: without an address space
template <typename T>
static T load(device const T* p, uint i) {
  return p[i];
}
static float sum(threadgroup const float* p) { return p[0] + p[1]; }

template <typename T>
kernel void k(device const T* a [[buffer(0)]], device float* b [[buffer(1)]],
              constant Params& params [[buffer(2)]], threadgroup float* sh [[threadgroup(0)]],
              uint i [[thread_position_in_grid]]) {
  threadgroup float local[kLanes][4];
  threadgroup uint flag;
  float4 v = float4(0.0f, half2(1.0h), kTable[1]);
  local[i][0] = float(a[i]) + v.x * 2;
  flag = kWidth;
  b[i] = first(b);                             // BAD: device as thread
  b[i] = load(sh, i);                          // BAD: threadgroup as device
  b[i] = sum(b);                               // BAD: device as threadgroup
  b[i] = sum(local[i]) + load(a, i) + float(params.n * flag);
  device float* p = sh;                        // BAD: threadgroup to device
  params.n = 3;                                // BAD: a write to constant
  device Params* q = &params;                  // BAD: constant to device
  threadgroup float* r = &sh[i];
  thread float* t = (thread float*)b;          // BAD: a cast from device to thread
  b[i] = *r + simd_sum(*r) * max(1.0f, *r);
  threadgroup_barrier(mem_flags::mem_threadgroup);
}
template [[host_name("k_f32")]] kernel void k<float>(device const float*, device float*,
                                                     constant Params&, threadgroup float*, uint);
