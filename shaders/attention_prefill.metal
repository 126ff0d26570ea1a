// Attention of prompt chunks over the cache, in tiles (Dao, "FlashAttention-2", 2023).
//
// attention_prefill_<matrix>_<head_dim>: a threadgroup per (work item, KV head). Its rows are
// pairs of a token and one of the kGroup query heads that share the KV head. Tiles of keys start at
// multiples of a fixed number of positions, and a row's sums depend on no other row, so a token's
// result is the same whichever chunk, batch or cache it is in.
//   grid: threadgroups (n_items, n_kv_heads * ceil(n_heads / n_kv_heads / kGroup))
//   threads: kAttentionThreads
// Matrices of half round queries and weights to half and hold f16, q8_0 and q4_0 keys well;
// matrices of float round nothing and hold every type.
// Function constants: head_dim (that of the name), block_size, K and V type, group.
#include "attention.h"
#include "kv_tile.h"

// Where a lane of a simdgroup stands in its eight rows of `width` columns: four lanes per row.
struct RowPlace {
  uint row;     // of eight
  uint column;  // its first one; it has width / 4
};

// One of a threadgroup's rows: a query head of a token.
struct QueryRow {
  bool is_live;
  uint position;
  ulong offset;  // in q and out, elements
};

inline void store4(threadgroup half* to, float4 x) { *(threadgroup half4*)to = half4(x); }
inline void store4(threadgroup float* to, float4 x) { *(threadgroup float4*)to = x; }

// Reads the keys [base, base + n_keys) of K or V, as rows of D + kPrefillPad elements. Positions
// after the last row's, and those whose blocks are gone, become zeros: what is stored there may be
// anything.
template <typename M, ushort D>
inline void load_keys(threadgroup M* to, device const uchar* cache, device const int* blocks,
                      ulong block_bytes, uint type, uint base, uint n_keys, uint last,
                      uint thread_index) {
  const uint n_chunks = D / kKVChunk;
  const uint per_word = kv_tokens_per_word(type);
  // One chunk at a time where queries and sums fill the registers.
  constexpr ushort kUnroll = sizeof(M) * D > 512 ? 1 : 4;
#pragma clang loop unroll_count(kUnroll)
  for (uint i = thread_index; i < n_keys * n_chunks; i += kAttentionThreads) {
    const uint word = i / (per_word * n_chunks);
    const uint chunk = i / per_word % n_chunks;
    const uint token = word * per_word + i % per_word;  // neighbours read what lies side by side
    const uint position = base + token;
    KVChunk x = {float4(0), float4(0)};
    const int block = position <= last ? blocks[position / kBlockSize] : -1;
    if (block >= 0)
      kv_load_chunk(x, cache + ulong(uint(block)) * block_bytes, type, position % kBlockSize,
                    chunk);
    threadgroup M* row = to + token * (D + kPrefillPad) + chunk * kKVChunk;
    store4(row, x.lo);
    store4(row + 4, x.hi);
  }
}

// The simdgroup's eight rows of queries as columns, in units of log2(e), by way of threadgroup
// memory. Columns, so that the keys of a product are read row by row.
template <typename M, ushort D, ushort kKeys>
inline void load_query_rows(thread simdgroup_matrix<M, 8, 8>* queries, device const float* q,
                            thread const QueryRow& row, thread const RowPlace& place, float scale,
                            threadgroup M* stage) {
#pragma unroll
  for (ushort first = 0; first < D; first += kKeys) {
    threadgroup M* to = stage + place.row * (kKeys + kPrefillPad) + place.column;
    const bool is_inside = row.is_live && first + place.column < D;
#pragma unroll
    for (ushort i = 0; i < kKeys / 4; i += 4) {
      float4 x = float4(0);
      if (is_inside) x = *(device const float4*)(q + row.offset + first + place.column + i) * scale;
      store4(to + i, x);
    }
    simdgroup_barrier(mem_flags::mem_threadgroup);
#pragma unroll
    for (ushort i = 0; i < kKeys / 8; ++i)
      if (first + 8 * i < D)
        simdgroup_load(queries[first / 8 + i], stage + 8 * i, kKeys + kPrefillPad, ulong2(0), true);
    simdgroup_barrier(mem_flags::mem_threadgroup);
  }
}

// Turns a row's scores into weights. Returns what its earlier sums are to be multiplied by.
template <typename M, ushort kKeys>
inline float weigh_row(thread float& largest, thread float& total, threadgroup const float* scores,
                       threadgroup M* weights, thread const QueryRow& row, uint first_key,
                       constant AttentionParams& params) {
  float s[kKeys / 4];
  float next = largest;
  const uint begin = attention_begin(row.position, params.window);
#pragma unroll
  for (ushort i = 0; i < kKeys / 4; ++i) {
    const uint key = first_key + i;
    const bool is_visible =
        row.is_live && key <= row.position && (key >= begin || key < params.sinks);
    s[i] = is_visible ? capped(scores[i], params.softcap) : kMasked;
    next = max(next, s[i]);
  }
  next = max(next, simd_shuffle_xor(next, 1));
  next = max(next, simd_shuffle_xor(next, 2));
  float sum = 0.0f;
#pragma unroll
  for (ushort i = 0; i < kKeys / 4; ++i) {
    // As it will be multiplied, so that rounding cancels where the sum divides.
    const M weight = M(s[i] == kMasked ? 0.0f : exp2(s[i] - next));
    weights[i] = weight;
    sum += float(weight);
  }
  sum += simd_shuffle_xor(sum, 1);
  sum += simd_shuffle_xor(sum, 2);
  const float factor = exp2(largest - next);
  largest = next;
  total = total * factor + sum;
  return factor;
}

// Writes a simdgroup's sums over their totals, by way of threadgroup memory.
template <ushort D, ushort kKeys>
inline void write_rows(thread const simdgroup_float8x8* sums, device float* out,
                       thread const QueryRow& row, thread const RowPlace& place, float total,
                       threadgroup float* stage) {
#pragma unroll
  for (ushort first = 0; first < D; first += kKeys) {
#pragma unroll
    for (ushort i = 0; i < kKeys / 8; ++i)
      if (first + 8 * i < D)
        simdgroup_store(sums[first / 8 + i], stage + 8 * i, kKeys + kPrefillPad);
    simdgroup_barrier(mem_flags::mem_threadgroup);
    if (row.is_live && first + place.column < D) {
      threadgroup const float4* from =
          (threadgroup const float4*)(stage + place.row * (kKeys + kPrefillPad) + place.column);
      device float4* to = (device float4*)(out + row.offset + first + place.column);
#pragma unroll
      for (ushort i = 0; i < kKeys / 16; ++i) to[i] = from[i] / total;
    }
    simdgroup_barrier(mem_flags::mem_threadgroup);
  }
}

template <typename M, ushort D>
kernel void attention_prefill(device const float* q [[buffer(kPrefillQ)]],
                              device const uchar* k_cache [[buffer(kPrefillKCache)]],
                              device const uchar* v_cache [[buffer(kPrefillVCache)]],
                              device const int* block_tables [[buffer(kPrefillBlockTables)]],
                              device const int* positions [[buffer(kPrefillPositions)]],
                              device const AttentionItem* items [[buffer(kPrefillItems)]],
                              device float* out [[buffer(kPrefillOut)]],
                              constant AttentionParams& params [[buffer(kPrefillParams)]],
                              uint2 group [[threadgroup_position_in_grid]],
                              uint lane [[thread_index_in_simdgroup]],
                              uint simdgroup [[simdgroup_index_in_threadgroup]]) {
  constexpr ushort kKeys = attention_prefill_keys(D, sizeof(M));
  constexpr ushort kStride = D + kPrefillPad;
  threadgroup float4 key_memory[kKeys * kStride * sizeof(M) / 16];
  threadgroup float4 score_memory[kPrefillRows * (kKeys + kPrefillPad) / 4];
  threadgroup float4 weight_memory[kPrefillRows * (kKeys + kPrefillPad) * sizeof(M) / 16];
  threadgroup float4 factor_memory[kAttentionSimdgroups * 16];
  threadgroup M* keys = (threadgroup M*)key_memory;
  const uint own = simdgroup * 8 * (kKeys + kPrefillPad);
  threadgroup float* scores = (threadgroup float*)score_memory + own;
  threadgroup M* weights = (threadgroup M*)weight_memory + own;
  threadgroup float* factors = (threadgroup float*)factor_memory + simdgroup * 64;

  const uint ratio = params.n_heads / params.n_kv_heads;
  const uint n_splits = (ratio + kGroup - 1) / kGroup;
  const uint kv_head = group.y / n_splits;
  const uint first_of_ratio = group.y % n_splits * kGroup;
  const uint first_token = items[group.x].first_token;
  const uint n_tokens = items[group.x].n_tokens;
  const uint first_position = uint(positions[first_token]);
  const uint last = first_position + n_tokens - 1;
  const uint begin = attention_begin(first_position, params.window);

  const RowPlace place = {lane / 4, lane % 4 * (kKeys / 4)};
  const uint index = simdgroup * 8 + place.row;
  const uint token = index / kGroup;
  const uint head = first_of_ratio + index % kGroup;
  const QueryRow row = {token < n_tokens && head < ratio, first_position + token,
                        (ulong(first_token + token) * params.n_heads + kv_head * ratio + head) * D};

  simdgroup_matrix<M, 8, 8> queries[D / 8];
  load_query_rows<M, D, kKeys>(queries, q, row, place, params.scale * M_LOG2E_F, weights);
  simdgroup_float8x8 sums[D / 8];
#pragma unroll
  for (ushort d = 0; d < D / 8; ++d) sums[d] = make_filled_simdgroup_matrix<float, 8>(0.0f);
  factors[2 * lane] = factors[2 * lane + 1] = 0.0f;
  float largest = kMasked;
  float total = 0.0f;

  device const int* blocks = block_tables + ulong(items[group.x].sequence) * params.max_blocks;
  const uint k_bytes = kv_head_bytes(kKType, D, kBlockSize);
  const uint v_bytes = kv_head_bytes(kVType, D, kBlockSize);
  for (uint base = 0; base <= last; base += kKeys) {
    if (base >= params.sinks && base + kKeys <= begin) base = begin / kKeys * kKeys;
    load_keys<M, D>(keys, k_cache + ulong(kv_head) * k_bytes, blocks,
                    ulong(params.n_kv_heads) * k_bytes, kKType, base, kKeys, last,
                    simdgroup * 32 + lane);
    threadgroup_barrier(mem_flags::mem_threadgroup);
    simdgroup_float8x8 products[kKeys / 8];
#pragma unroll
    for (ushort i = 0; i < kKeys / 8; ++i)
      products[i] = make_filled_simdgroup_matrix<float, 8>(0.0f);
#pragma unroll
    for (ushort d = 0; d < D / 8; ++d) {
#pragma unroll
      for (ushort i = 0; i < kKeys / 8; ++i) {
        simdgroup_matrix<M, 8, 8> key;
        simdgroup_load(key, keys + 8 * i * kStride + 8 * d, kStride);
        simdgroup_multiply_accumulate(products[i], key, queries[d], products[i]);
      }
    }
#pragma unroll
    for (ushort i = 0; i < kKeys / 8; ++i)
      simdgroup_store(products[i], scores + 8 * i, kKeys + kPrefillPad, ulong2(0), true);
    simdgroup_barrier(mem_flags::mem_threadgroup);

    const uint at = place.row * (kKeys + kPrefillPad) + place.column;
    const float factor = weigh_row<M, kKeys>(largest, total, scores + at, weights + at, row,
                                             base + place.column, params);
    if (place.column == 0) factors[place.row * 9] = factor;
    threadgroup_barrier(mem_flags::mem_threadgroup);  // weights are written, keys read
    load_keys<M, D>(keys, v_cache + ulong(kv_head) * v_bytes, blocks,
                    ulong(params.n_kv_heads) * v_bytes, kVType, base, kKeys, last,
                    simdgroup * 32 + lane);
    if (simd_any(factor != 1.0f)) {  // a factor of 1 changes nothing, so rows stay independent
      simdgroup_float8x8 diagonal;
      simdgroup_load(diagonal, factors, 8);
#pragma unroll
      for (ushort d = 0; d < D / 8; ++d) simdgroup_multiply(sums[d], diagonal, sums[d]);
    }
    threadgroup_barrier(mem_flags::mem_threadgroup);
#pragma unroll
    for (ushort i = 0; i < kKeys / 8; ++i) {
      simdgroup_matrix<M, 8, 8> weight;
      simdgroup_load(weight, weights + 8 * i, kKeys + kPrefillPad);
#pragma unroll
      for (ushort d = 0; d < D / 8; ++d) {
        simdgroup_matrix<M, 8, 8> value;
        simdgroup_load(value, keys + 8 * i * kStride + 8 * d, kStride);
        simdgroup_multiply_accumulate(sums[d], weight, value, sums[d]);
      }
    }
    threadgroup_barrier(mem_flags::mem_threadgroup);  // values are read, and this tile's scores
  }
  write_rows<D, kKeys>(sums, out, row, place, total, scores);
}

#define ATTENTION_PREFILL(matrix, head_dim)                                                      \
  template [[host_name("attention_prefill_" #matrix "_" #head_dim)]] kernel void                 \
  attention_prefill<matrix, head_dim>(device const float*, device const uchar*,                  \
                                      device const uchar*, device const int*, device const int*, \
                                      device const AttentionItem*, device float*,                \
                                      constant AttentionParams&, uint2, uint, uint);
#define EACH_HEAD_DIM(matrix)    \
  ATTENTION_PREFILL(matrix, 16)  \
  ATTENTION_PREFILL(matrix, 32)  \
  ATTENTION_PREFILL(matrix, 64)  \
  ATTENTION_PREFILL(matrix, 80)  \
  ATTENTION_PREFILL(matrix, 96)  \
  ATTENTION_PREFILL(matrix, 128) \
  ATTENTION_PREFILL(matrix, 256)
EACH_HEAD_DIM(half)
EACH_HEAD_DIM(float)
