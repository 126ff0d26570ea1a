// Stores a step's K and V rows in their slots, in the cache's types.
//
// Grid: threads (n_kv_heads * kv_scale_groups(head_dim) * 4, n_tokens, 2), the x extent rounded up
// to a multiple of 32; threadgroups of 32 x 1 x 1. z 0 writes K, z 1 writes V. A thread has eight
// elements of a head; four neighbours share a scale.
// Function constants: head_dim, block_size, K and V type.
#include "attention.h"
#include "kv_layout.h"

// Of four neighbouring lanes' values the one of largest magnitude, the first one where two tie.
inline float extreme_of_group(float value, uint lane) {
#pragma unroll(2)
  for (ushort step = 1; step < 4; step *= 2) {
    const float other = simd_shuffle_xor(value, step);
    const bool is_first = (lane & step) != 0;  // the other lane comes before this one
    if (fabs(other) > fabs(value) || (is_first && fabs(other) == fabs(value))) value = other;
  }
  return value;
}

inline float extreme_of_lane(thread const KVChunk& x) {
  float value = x.lo[0];
#pragma unroll(4)
  for (ushort i = 1; i < 4; ++i) value = fabs(x.lo[i]) > fabs(value) ? x.lo[i] : value;
#pragma unroll(4)
  for (ushort i = 0; i < 4; ++i) value = fabs(x.hi[i]) > fabs(value) ? x.hi[i] : value;
  return value;
}

// Looks at bits, since fast math may assume that there are no such numbers.
inline bool all_finite(float4 x) {
  return all((as_type<uint4>(x) & 0x7f800000u) != uint4(0x7f800000u));
}

// 1 / scale; 0 where the scale is 0 as a half too, so that the integers do not matter.
inline float reciprocal(float scale) { return fabs(scale) < 1.2e-38f ? 0.0f : 1.0f / scale; }

inline uint bf16_pair(float2 x) {
  return uint(as_type<ushort>(bfloat(x.x))) | uint(as_type<ushort>(bfloat(x.y))) << 16;
}

// One thread's chunk in a float type.
inline void store_float(device uchar* to, uint type, thread const KVChunk& x) {
  device uint4* words = (device uint4*)to;
  if (type == kKVF32) {
    words[0] = as_type<uint4>(x.lo);
    words[1] = as_type<uint4>(x.hi);
  } else if (type == kKVF16) {
    words[0] = uint4(as_type<uint2>(half4(x.lo)), as_type<uint2>(half4(x.hi)));
  } else {
    words[0] =
        uint4(bf16_pair(x.lo.xy), bf16_pair(x.lo.zw), bf16_pair(x.hi.xy), bf16_pair(x.hi.zw));
  }
}

// The same as integers, whose scale is a group's.
inline void store_integers(device uchar* to, uint type, thread const KVChunk& x, float inverse) {
  if (type == kKVQ8_0) {
    *(device uint2*)to = uint2(as_type<uint>(char4(round(x.lo * inverse))),
                               as_type<uint>(char4(round(x.hi * inverse))));
  } else {
    const uint4 lo = min(uint4(x.lo * inverse + 8.5f), uint4(15));
    const uint4 hi = min(uint4(x.hi * inverse + 8.5f), uint4(15));
    *(device uint*)to = as_type<uint>(uchar4(lo)) | as_type<uint>(uchar4(hi)) << 4;
  }
}

kernel void kv_write(device const float* k [[buffer(kKVWriteK)]],
                     device const float* v [[buffer(kKVWriteV)]],
                     device const int* slots [[buffer(kKVWriteSlots)]],
                     device uchar* k_cache [[buffer(kKVWriteKCache)]],
                     device uchar* v_cache [[buffer(kKVWriteVCache)]],
                     constant KVWriteParams& params [[buffer(kKVWriteParams)]],
                     uint3 index [[thread_position_in_grid]],
                     uint lane [[thread_index_in_simdgroup]]) {
  const uint chunks_of_groups = kv_scale_groups(kHeadDim) * (kKVScaleGroup / kKVChunk);
  const uint head = index.x / chunks_of_groups;
  const uint chunk = index.x % chunks_of_groups;
  const bool is_live = head < params.n_kv_heads && chunk < kHeadDim / kKVChunk;
  const uint type = index.z == 0 ? kKType : kVType;
  const uint slot = uint(slots[index.y]);
  const uint token = slot % kBlockSize;
  device uchar* run =
      (index.z == 0 ? k_cache : v_cache) + (ulong(slot / kBlockSize) * params.n_kv_heads + head) *
                                               kv_head_bytes(type, kHeadDim, kBlockSize);
  device uchar* to = run + kv_chunk_offset(type, kHeadDim, token, chunk);

  KVChunk x = {float4(0), float4(0)};
  if (is_live) {
    device const float4* from =
        (device const float4*)((index.z == 0 ? k : v) +
                               (ulong(index.y) * params.n_kv_heads + head) * kHeadDim) +
        chunk * 2;
    x.lo = from[0];
    x.hi = from[1];
  }
  if (!kv_has_scales(type)) {
    if (is_live) store_float(to, type, x);
    return;
  }
  const float extreme = extreme_of_group(extreme_of_lane(x), lane);
  uint is_broken = all_finite(x.lo) && all_finite(x.hi) ? 0 : 1;
  is_broken |= simd_shuffle_xor(is_broken, 1);
  is_broken |= simd_shuffle_xor(is_broken, 2);
  const float scale = type == kKVQ8_0 ? fabs(extreme) / 127.0f : extreme / -8.0f;
  if (!is_live) return;
  store_integers(to, type, x, is_broken != 0 ? 0.0f : reciprocal(scale));
  if (chunk % (kKVScaleGroup / kKVChunk) == 0) {
    device ushort* stored =
        (device ushort*)(run + kv_scale_offset(type, kHeadDim, kBlockSize, token,
                                               chunk * kKVChunk / kKVScaleGroup));
    *stored = is_broken != 0 ? ushort(0x7e00) : as_type<ushort>(half(scale));
  }
}
