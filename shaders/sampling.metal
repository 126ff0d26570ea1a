// The largest logits of a row. Among equal ones the lowest id comes first; NaN ranks above all
// else, so that whoever looks at the best one notices.
//
// argmax: arguments ArgmaxBuffer
//   grid: threadgroups (n_rows); threads: kSamplingThreads
// top_k_chunks: the k largest of every run of kTopKChunk logits; arguments TopKBuffer
//   grid: threadgroups (top_k_chunk_count(n_cols), n_rows); threads: kSamplingThreads
// top_k_merge: the k largest of those, in descending order; arguments TopKBuffer
//   grid: threadgroups (n_rows); threads: kSamplingThreads
#include "common.h"
#include "params.h"

constant constexpr uint kThreads = kSamplingThreads;
constant constexpr uint kChunk = kTopKChunk;

// An integer that orders as the numbers do. Zeros of both signs are equal.
inline uint rank_of(float value) {
  const uint bits = value == 0.0f ? 0 : as_type<uint>(value);
  if ((bits & 0x7fffffff) > 0x7f800000) return 0xffffffff;
  return (bits & 0x80000000) != 0 ? ~bits : bits | 0x80000000;
}

// What rank_of() was given.
inline float value_of(uint rank) {
  return as_type<float>((rank & 0x80000000) != 0 ? rank & 0x7fffffff : ~rank);
}

// A logit and its id. Of two keys the larger one is first; no logit has the key 0.
inline ulong key_of(float value, uint id) { return ulong(rank_of(value)) << 32 | ~id; }

// The larger of this lane's key and the one of the lane that differs in `bit`. By halves: Metal
// shuffles no 64-bit integers.
inline ulong larger_key(ulong key, ushort bit) {
  const uint rank = simd_shuffle_xor(uint(key >> 32), bit);
  const uint id = simd_shuffle_xor(uint(key), bit);
  return max(key, ulong(rank) << 32 | id);
}

kernel void argmax(device const float* logits [[buffer(kArgmaxLogits)]],
                   device uint* ids [[buffer(kArgmaxIds)]],
                   constant SamplingParams& params [[buffer(kArgmaxParams)]],
                   uint row [[threadgroup_position_in_grid]],
                   uint thread_index [[thread_index_in_threadgroup]],
                   uint lane [[thread_index_in_simdgroup]],
                   uint simdgroup [[simdgroup_index_in_threadgroup]]) {
  threadgroup ulong best[kThreads / 32];
  device const float* from = logits + ulong(row) * params.n_cols;
  ulong key = 0;
  for (uint i = thread_index; i < params.n_cols; i += kThreads) key = max(key, key_of(from[i], i));
  for (ushort bit = 16; bit > 0; bit /= 2) key = larger_key(key, bit);
  if (lane == 0) best[simdgroup] = key;
  threadgroup_barrier(mem_flags::mem_threadgroup);
  if (thread_index == 0) {
    for (uint i = 1; i < kThreads / 32; ++i) key = max(key, best[i]);
    ids[row] = ~uint(key);
  }
}

// Sorts kChunk keys in descending order (Batcher, "Sorting networks and their applications", 1968).
// Everyone calls it, after a barrier; another one is behind it.
inline void sort_keys(threadgroup ulong* keys, uint thread_index) {
  for (uint size = 2; size <= kChunk; size *= 2) {
    for (uint step = size / 2; step > 0; step /= 2) {
      for (uint i = thread_index; i < kChunk / 2; i += kThreads) {
        const uint low = i / step * 2 * step + i % step;
        const ulong first = keys[low], second = keys[low + step];
        const bool descending = (low & size) == 0;
        if ((first < second) == descending) {
          keys[low] = second;
          keys[low + step] = first;
        }
      }
      threadgroup_barrier(mem_flags::mem_threadgroup);
    }
  }
}

kernel void top_k_chunks(device const float* logits [[buffer(kTopKLogits)]],
                         device ulong* candidates [[buffer(kTopKCandidates)]],
                         constant SamplingParams& params [[buffer(kTopKParams)]],
                         uint2 group [[threadgroup_position_in_grid]],
                         uint thread_index [[thread_index_in_threadgroup]]) {
  threadgroup ulong keys[kChunk];
  const uint first = group.x * kChunk;
  device const float* from = logits + ulong(group.y) * params.n_cols;
  for (uint i = thread_index; i < kChunk; i += kThreads) {
    keys[i] = first + i < params.n_cols ? key_of(from[first + i], first + i) : 0;
  }
  threadgroup_barrier(mem_flags::mem_threadgroup);
  sort_keys(keys, thread_index);
  const uint n_chunks = top_k_chunk_count(params.n_cols);
  device ulong* to = candidates + (ulong(group.y) * n_chunks + group.x) * params.k;
  for (uint i = thread_index; i < params.k; i += kThreads) to[i] = keys[i];
}

kernel void top_k_merge(device const ulong* candidates [[buffer(kTopKCandidates)]],
                        device uint* ids [[buffer(kTopKIds)]],
                        device float* values [[buffer(kTopKValues)]],
                        constant SamplingParams& params [[buffer(kTopKParams)]],
                        uint row [[threadgroup_position_in_grid]],
                        uint thread_index [[thread_index_in_threadgroup]]) {
  threadgroup ulong keys[kChunk];
  const uint n_candidates = top_k_chunk_count(params.n_cols) * params.k;
  device const ulong* from = candidates + ulong(row) * n_candidates;
  for (uint i = thread_index; i < params.k; i += kThreads) keys[i] = 0;
  // The first k keys are the best so far; the rest of the chunk is new.
  for (uint first = 0; first < n_candidates; first += kChunk - params.k) {
    for (uint i = params.k + thread_index; i < kChunk; i += kThreads) {
      const uint candidate = first + i - params.k;
      keys[i] = candidate < n_candidates ? from[candidate] : 0;
    }
    threadgroup_barrier(mem_flags::mem_threadgroup);
    sort_keys(keys, thread_index);
  }
  for (uint i = thread_index; i < params.k; i += kThreads) {
    const ulong key = keys[i];
    ids[ulong(row) * params.k + i] = ~uint(key);
    values[ulong(row) * params.k + i] = value_of(uint(key >> 32));
  }
}
