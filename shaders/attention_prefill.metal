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
//
// Products are made the other way around: keys times queries, then values times weights. So a row's
// scores are a column of matrices and become weights where they are, and only its largest score
// goes from lane to lane: a lane has two rows' scores of some keys, and two rows' sums.
#include "prefill_tile.h"

// Eight rows of a threadgroup.
struct Rows {
  uint first;  // of the threadgroup's
  uint n_tokens;
  uint first_token;
  uint first_head;  // of a token's query heads
  uint n_heads;     // that the threadgroup has
};

// Whether row i of eight is a token's, and where in q and out it is, in heads.
inline bool find_row(thread ulong& at, thread const Rows& rows, uint i, uint n_heads) {
  const uint token = (rows.first + i) / kGroup;
  const uint head = (rows.first + i) % kGroup;
  at = ulong(rows.first_token + token) * n_heads + rows.first_head + head;
  return token < rows.n_tokens && head < rows.n_heads;
}

// Queries as columns of matrices, in units of log2(e), by way of threadgroup memory.
template <typename M, ushort D>
inline void load_queries(thread simdgroup_matrix<M, 8, 8>* queries, device const float* q,
                         thread const Rows& rows, thread const LanePlace& place, uint n_heads,
                         float scale, threadgroup uchar* stage, uint lane) {
  for (uint i = lane; i < 2 * D; i += 32) {
    ulong at;
    float4 x = float4(0);
    if (find_row(at, rows, i / (D / 4), n_heads))
      x = *(device const float4*)(q + at * D + i % (D / 4) * 4) * scale;
    store4((threadgroup M*)stage + 4 * i, x);
  }
  simdgroup_barrier(mem_flags::mem_threadgroup);
  threadgroup const M* columns = (threadgroup const M*)stage + 2 * place.pair * D;
#pragma unroll
  for (ushort i = 0; i < D / 8; ++i) {
    const uint element = element_of<M, D>(i, place.row);
    queries[i].thread_elements()[0] = columns[element];
    queries[i].thread_elements()[1] = columns[D + element];
  }
}

// Scores of eight rows for a tile's keys. Products that share their queries follow each other.
template <typename M, ushort D, ushort kKeys>
inline void score_tile(thread simdgroup_float8x8* scores,
                       thread const simdgroup_matrix<M, 8, 8>* queries,
                       threadgroup const uchar* keys, thread const LanePlace& place) {
  constexpr ushort kBytes = key_bytes(D, sizeof(M));
  constexpr ushort kMatrices = kBytes / 2 / sizeof(M);
  threadgroup const uchar* own =
      keys + key_offset<M, D, kKeys>(token_of<M, kKeys>(0, place.row)) + place.pair * kBytes;
#pragma unroll
  for (ushort i = 0; i < kKeys / 8; ++i) scores[i] = make_filled_simdgroup_matrix<float, 8>(0.0f);
#pragma unroll
  for (ushort d = 0; d < D / 8; d += kMatrices) {
    simdgroup_matrix<M, 8, 8> key[kKeys / 8][kMatrices];
#pragma unroll
    for (ushort i = 0; i < kKeys / 8; ++i)
      load_matrices<kBytes>(
          key[i], own + key_offset<M, D, kKeys>(token_of<M, kKeys>(i, 0)) + d * 8 * sizeof(M));
#pragma unroll
    for (ushort j = 0; j < kMatrices; ++j) {
#pragma unroll
      for (ushort i = 0; i < kKeys / 8; ++i)
        simdgroup_multiply_accumulate(scores[i], key[i][j], queries[d + j], scores[i]);
    }
  }
}

// Masks what eight rows do not see of a tile.
template <typename M, ushort kKeys>
inline void mask_scores(thread simdgroup_float8x8* scores, thread const LanePlace& place,
                        uint first_row, uint first_position, uint base, uint window, uint sinks) {
#pragma unroll
  for (ushort e = 0; e < 2; ++e) {
    const uint position = first_position + (first_row + 2 * place.pair + e) / kGroup;
    const uint begin = attention_begin(position, window);
#pragma unroll
    for (ushort i = 0; i < kKeys / 8; ++i) {
      const uint key = base + token_of<M, kKeys>(i, place.row);
      if ((key > position) | ((key < begin) & (key >= sinks)))
        scores[i].thread_elements()[e] = kMasked;
    }
  }
}

template <ushort kKeys>
inline void cap_scores(thread simdgroup_float8x8* scores, float softcap) {
#pragma unroll
  for (ushort i = 0; i < kKeys / 8; ++i) {
    scores[i].thread_elements()[0] = capped(scores[i].thread_elements()[0], softcap);
    scores[i].thread_elements()[1] = capped(scores[i].thread_elements()[1], softcap);
  }
}

// Turns scores into weights. Returns what the rows' earlier sums are to be multiplied by. Of a row
// that has seen nothing so far, weights are too large; it sees something at last, and then this
// factor is zero.
template <typename M, ushort kKeys>
inline float2 weigh(thread simdgroup_matrix<M, 8, 8>* weights, thread float2& largest,
                    thread simdgroup_float8x8* scores, thread const LanePlace& place) {
  float2 next = largest;
#pragma unroll
  for (ushort i = 0; i < kKeys / 8; ++i) {
    next.x = fmax(next.x, scores[i].thread_elements()[0]);
    next.y = fmax(next.y, scores[i].thread_elements()[1]);
  }
#pragma unroll
  for (ushort i = 0; i < 3; ++i) {
    const float2 other = simd_shuffle_xor(next, place.steps[i]);
    next = float2(fmax(next.x, other.x), fmax(next.y, other.y));
  }
#pragma unroll
  for (ushort i = 0; i < kKeys / 8; ++i)
    set_elements(weights[i], exp2(float2(scores[i].thread_elements()[0] - next.x,
                                         scores[i].thread_elements()[1] - next.y)));
  const float2 factor = exp2(largest - next);
  largest = next;
  return factor;
}

inline void multiply_columns(thread simdgroup_float8x8& matrix, float2 factor) {
  matrix.thread_elements()[0] *= factor.x;
  matrix.thread_elements()[1] *= factor.y;
}

// Adds a tile's values, by their weights, to eight rows' sums, and the weights to their totals.
template <typename M, ushort D, ushort kKeys>
inline void add_values(thread simdgroup_float8x8* sums, thread simdgroup_float8x8& totals,
                       thread const simdgroup_matrix<M, 8, 8>* weights,
                       threadgroup const uchar* values, thread const LanePlace& place) {
  constexpr ushort kMatrices = value_matrices(sizeof(M));
  threadgroup const uchar* own = values + place.row * 64 + place.pair * 16;
#pragma unroll
  for (ushort d = 0; d < D / 8; d += 2) {
#pragma unroll
    for (ushort i = 0; i < kKeys / 8; i += kMatrices / 2) {
      simdgroup_matrix<M, 8, 8> value[kMatrices];
      load_matrices<16>(value, own + value_block<M, D, kKeys>(d, i));
#pragma unroll
      for (ushort j = 0; j < kMatrices; ++j)
        simdgroup_multiply_accumulate(sums[d + j % 2], value[j], weights[i + j / 2],
                                      sums[d + j % 2]);
    }
  }
  // Weights as they are multiplied, so that rounding cancels where the totals divide.
  simdgroup_matrix<M, 8, 8> ones = make_filled_simdgroup_matrix<M, 8>(M(1));
#pragma unroll
  for (ushort i = 0; i < kKeys / 8; ++i)
    simdgroup_multiply_accumulate(totals, ones, weights[i], totals);
}

// Writes eight rows' sums over their totals, kColumns at a time by way of threadgroup memory.
template <ushort D, ushort kColumns>
inline void write_rows(thread simdgroup_float8x8* sums, thread simdgroup_float8x8& total,
                       device float* out, thread const Rows& rows, uint n_heads,
                       threadgroup float* stage, uint lane) {
  const float2 inverse = 1.0f / float2(total.thread_elements()[0], total.thread_elements()[1]);
#pragma unroll
  for (ushort first = 0; first < D; first += kColumns) {
    threadgroup_barrier(mem_flags::mem_threadgroup);  // what was there is read, by all at first
#pragma unroll
    for (ushort i = 0; i < kColumns / 8; ++i) {
      multiply_columns(sums[first / 8 + i], inverse);
      simdgroup_store(sums[first / 8 + i], stage + 8 * i, kColumns, ulong2(0), true);
    }
    simdgroup_barrier(mem_flags::mem_threadgroup);
    for (uint i = lane; i < 2 * kColumns; i += 32) {
      ulong at;
      if (find_row(at, rows, i / (kColumns / 4), n_heads))
        *(device float4*)(out + at * D + first + i % (kColumns / 4) * 4) =
            *(threadgroup const float4*)(stage + 4 * i);
    }
  }
}

// The tile after the one at `base`: what lies between sinks and window is left out.
inline uint tile_from(uint base, uint n_keys, uint begin, uint sinks) {
  return base >= sinks && base + n_keys <= begin ? begin / n_keys * n_keys : base;
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
  constexpr uint kTileBytes = kKeys * D * sizeof(M);
  constexpr uint kStageBytes = 2 * kTileBytes / kAttentionSimdgroups;
  constexpr ushort kColumns = kStageBytes / 32 < D ? kStageBytes / 32 : D;
  // Registers for what is read ahead.
  constexpr bool kReadsAhead = D * sizeof(M) <= 256;
  threadgroup float4 memory[attention_prefill_memory(D, sizeof(M)) / 16];
  threadgroup uchar* keys = (threadgroup uchar*)memory;
  threadgroup uchar* values = keys + kTileBytes + 4 * attention_prefill_gap(D, sizeof(M));
  threadgroup uchar* stage = keys + simdgroup * kStageBytes;

  // Read once: what is read in a loop might be waited for there.
  const uint window = params.window, sinks = params.sinks;
  const float softcap = params.softcap;
  const uint ratio = params.n_heads / params.n_kv_heads;
  const uint n_splits = (ratio + kGroup - 1) / kGroup;
  const uint kv_head = group.y / n_splits;
  const uint first_of_ratio = group.y % n_splits * kGroup;
  const uint first_token = items[group.x].first_token;
  const uint n_tokens = items[group.x].n_tokens;
  const uint first_position = uint(positions[first_token]);
  const uint last = first_position + n_tokens - 1;
  const uint begin = attention_begin(first_position, window);
  const uint begin_of_last = attention_begin(last, window);
  // The remainder says how large it can be: addresses need fewer registers.
  const uint thread_index = (simdgroup * 32 + lane) % kAttentionThreads;
  const Rows rows = {simdgroup * 8, n_tokens, first_token, kv_head * ratio + first_of_ratio,
                     min(kGroup, ratio - first_of_ratio)};

  LanePlace place;
  find_place(place, (threadgroup half*)stage, lane);
  simdgroup_matrix<M, 8, 8> queries[D / 8];
  load_queries<M, D>(queries, q, rows, place, params.n_heads, params.scale * M_LOG2E_F, stage,
                     lane);
  float2 largest = float2(kMasked);
  simdgroup_float8x8 totals = make_filled_simdgroup_matrix<float, 8>(0.0f);
  simdgroup_float8x8 sums[D / 8];
#pragma unroll
  for (ushort d = 0; d < D / 8; ++d) sums[d] = make_filled_simdgroup_matrix<float, 8>(0.0f);

  const uint k_bytes = kv_head_bytes(kKType, D, kBlockSize);
  const uint v_bytes = kv_head_bytes(kVType, D, kBlockSize);
  device const int* blocks = block_tables + ulong(items[group.x].sequence) * params.max_blocks;
  const int last_block = blocks[last / kBlockSize];
  const TileSource k = {k_cache + ulong(kv_head) * k_bytes, blocks, params.n_kv_heads * k_bytes,
                        last_block, kKType};
  const TileSource v = {v_cache + ulong(kv_head) * v_bytes, blocks, params.n_kv_heads * v_bytes,
                        last_block, kVType};
  TokenPair part[pairs_of_thread(D, kKeys)];
  uint base = tile_from(0, kKeys, begin, sinks);
  if (kReadsAhead) read_tile<D, kKeys>(part, k, base, last, thread_index);
  threadgroup_barrier(mem_flags::mem_threadgroup);  // queries are read
  while (base <= last) {
    if (!kReadsAhead) read_tile<D, kKeys>(part, k, base, last, thread_index);
    store_keys<M, D, kKeys>(keys, part, kKType, thread_index);
    threadgroup_barrier(mem_flags::mem_threadgroup);  // keys are there, earlier values read
    if (kReadsAhead) read_tile<D, kKeys>(part, v, base, last, thread_index);
    const bool is_whole = base + kKeys <= first_position + 1 &&  // every row sees all of it
                          (base >= begin_of_last || base + kKeys <= sinks);
    simdgroup_float8x8 scores[kKeys / 8];
    score_tile<M, D, kKeys>(scores, queries, keys, place);
    if (softcap != 0.0f) cap_scores<kKeys>(scores, softcap);
    if (!is_whole)
      mask_scores<M, kKeys>(scores, place, rows.first, first_position, base, window, sinks);
    simdgroup_matrix<M, 8, 8> weights[kKeys / 8];
    const float2 factor = weigh<M, kKeys>(weights, largest, scores, place);
    if (simd_any(factor.x != 1.0f || factor.y != 1.0f)) {  // by 1, rows stay as they are
      multiply_columns(totals, factor);
#pragma unroll
      for (ushort d = 0; d < D / 8; ++d) multiply_columns(sums[d], factor);
    }
    if (!kReadsAhead) read_tile<D, kKeys>(part, v, base, last, thread_index);
    store_values<M, D, kKeys>(values, part, kVType, is_whole, thread_index);
    threadgroup_barrier(mem_flags::mem_threadgroup);  // values are there, keys read
    const uint next = tile_from(base + kKeys, kKeys, begin, sinks);
    if (kReadsAhead && next <= last) read_tile<D, kKeys>(part, k, next, last, thread_index);
    add_values<M, D, kKeys>(sums, totals, weights, values, place);
    base = next;
  }
  write_rows<D, kColumns>(sums, totals, out, rows, params.n_heads, (threadgroup float*)stage, lane);
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
