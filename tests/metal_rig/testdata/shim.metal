// One kernel per part of the shim; test_shim.py knows the answers.
#include <metal_stdlib>
using namespace metal;

constant uint kScale [[function_constant(0)]];
constant bool kMaybe [[function_constant(1)]];
constant uint kDerived = kScale * 2;
constant float kTable[4] = {1.0f, 2.0f, 4.0f, 8.0f};

kernel void vectors(device float4* out [[buffer(0)]], device const half4* in [[buffer(1)]],
                    uint i [[thread_position_in_grid]]) {
  float4 v = float4(in[i]);
  v.xy += v.zw;
  v = v.wzyx * 2.0f;
  out[i] = select(v, float4(-1.0f), v > float4(100.0f));
}

kernel void packed(device packed_float3* out [[buffer(0)]], uint i [[thread_position_in_grid]]) {
  out[i] = float3(float(i), 1.5f, -2.0f).zyx;
}

kernel void to_bfloat(device bfloat* out [[buffer(0)]], device const float* in [[buffer(1)]],
                      uint i [[thread_position_in_grid]]) {
  out[i] = bfloat(in[i]);
}

kernel void math(device float* out [[buffer(0)]], device const float* in [[buffer(1)]],
                 uint i [[thread_position_in_grid]]) {
  device float* row = out + i * 10;
  const float x = in[i];
  row[0] = exp(x);
  row[1] = precise::log(fabs(x));
  row[2] = rsqrt(fabs(x));
  row[3] = tanh(x);
  row[4] = clamp(x, -1.0f, 1.0f);
  row[5] = fma(x, 2.0f, 1.0f);
  row[6] = sign(x);
  row[7] = as_type<float>(as_type<uint>(x) ^ 0x80000000u);
  row[8] = float(popcount(as_type<uint>(x)));
  row[9] = float(extract_bits(int(-5), 0, 3));
}

kernel void constants(device float* out [[buffer(0)]], uint i [[thread_position_in_grid]]) {
  out[i] = kTable[i] * float(kDerived) + (is_function_constant_defined(kMaybe) ? 1.0f : 0.0f);
}

// 12 results per lane.
kernel void simdgroup_functions(device float* out [[buffer(0)]], device const float* in [[buffer(1)]],
                                uint i [[thread_position_in_grid]],
                                uint lane [[thread_index_in_simdgroup]]) {
  device float* row = out + i * 12;
  const float x = in[i];
  row[0] = simd_sum(x);
  row[1] = simd_max(x);
  row[2] = simd_min(x);
  row[3] = simd_shuffle_xor(x, 5);
  row[4] = simd_broadcast(x, 7);
  row[5] = simd_shuffle_and_fill_down(x, 99.0f, 3);
  row[6] = simd_prefix_inclusive_sum(x);
  row[7] = simd_prefix_exclusive_sum(x);
  row[8] = float(ulong(simd_ballot(x > 0.0f)) >> lane & 1);
  row[9] = simd_all(x > -100.0f) && !simd_all(x > 0.0f) && simd_any(x > 0.0f) ? 1.0f : 0.0f;
  row[10] = quad_shuffle_xor(x, 1);
  row[11] = simd_shuffle(float4(x), ushort(31 - lane)).w;
}

template <typename T>
kernel void matrix_product(device const T* a [[buffer(0)]], device const T* b [[buffer(1)]],
                           device float* d [[buffer(2)]]) {
  simdgroup_matrix<T, 8, 8> ma, mb;
  simdgroup_float8x8 sum = make_filled_simdgroup_matrix<float, 8, 8>(1.0f);
  simdgroup_load(ma, a, 8);
  simdgroup_load(mb, b, 8, ulong2(0), true);
  simdgroup_multiply_accumulate(sum, ma, mb, sum);
  simdgroup_store(sum, d, 8);
}
template [[host_name("matrix_product_f32")]] kernel void matrix_product<float>(
    device const float*, device const float*, device float*);
template [[host_name("matrix_product_f16")]] kernel void matrix_product<half>(
    device const half*, device const half*, device float*);
template [[host_name("matrix_product_bf16")]] kernel void matrix_product<bfloat>(
    device const bfloat*, device const bfloat*, device float*);

// The size of a product with an unsuffixed literal, inside of a template.
template <typename T>
static uint literal_size(T x) {
  return sizeof(0.5 * x);
}
kernel void literals(device uint* out [[buffer(0)]]) { out[0] = literal_size(1.0f); }

// columns: [3] float2, v: float3 -> (2 M + I) v, by way of half.
kernel void matrices(device float2* out [[buffer(0)]], device const float2* columns [[buffer(1)]],
                     device const float3* v [[buffer(2)]]) {
  const float3x2 m = float3x2(columns[0], columns[1], columns[2]);
  const float3x2 sum = float3x2(half3x2(m)) * 2.0f + float3x2(1.0f);
  out[0] = sum * v[0];
  out[1] = float2(sum[1][0], sum[2][1]);
}

kernel void histogram(device atomic_uint* bins [[buffer(0)]], device const uint* in [[buffer(1)]],
                      uint i [[thread_position_in_grid]]) {
  atomic_fetch_add_explicit(&bins[in[i]], 1u, memory_order_relaxed);
}

// Where every built-in comes from, at a ragged edge too.
kernel void builtins(device uint* out [[buffer(0)]], uint2 grid [[threads_per_grid]],
                     uint2 p [[thread_position_in_grid]],
                     uint2 group [[threadgroup_position_in_grid]],
                     uint2 groups [[threadgroups_per_grid]],
                     uint2 in_group [[thread_position_in_threadgroup]],
                     uint2 size [[threads_per_threadgroup]],
                     uint flat [[thread_index_in_threadgroup]],
                     uint width [[threads_per_simdgroup]]) {
  device uint* row = out + (p.y * grid.x + p.x) * 8;
  row[0] = group.x;
  row[1] = group.y;
  row[2] = in_group.x;
  row[3] = in_group.y;
  row[4] = size.x * 100 + size.y;
  row[5] = flat;
  row[6] = groups.x * 100 + groups.y;
  row[7] = width;
}
