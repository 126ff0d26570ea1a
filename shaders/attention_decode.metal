// Attention of single tokens over the cache, split along it (Dao et al., "Flash-Decoding", 2023).
//
// attention_decode: a threadgroup per (partition, KV head, token). All query heads of a KV head
// share it, so that K and V are read once. Partitions start at multiples of kPartition, and which
// lane adds what follows from positions alone: neither the batch nor the cache's strategy nor its
// block size can change the order of a sum. A partition is worked off in rounds: scores into
// threadgroup memory, their weights, values.
//   grid: threadgroups (max_slots, n_kv_heads * ceil(n_heads / n_kv_heads / kGroup), n_items)
//   threads: kAttentionThreads; threadgroup memory 0: attention_decode_memory() bytes
//   writes its partial sums, or `out` where the token reads one partition only
// attention_decode_reduce: joins partitions in ascending order; needed when max_slots > 1.
//   grid: threadgroups (ceil(n_heads / kAttentionSimdgroups), n_items); threads: kAttentionThreads
// Function constants: all of AttentionConstant; the reduction needs head_dim and partition.
#include "attention.h"
#include "kv_tile.h"

constant uint kPartition [[function_constant(kConstantPartition)]];
constant uint kRound [[function_constant(kConstantRound)]];

// A lane owns eight elements of a head; kLanes lanes read a token, and a simdgroup reads kSubsets
// tiles of eight tokens at a time.
constant uint kLanes = kHeadDim <= 64 ? 8 : kHeadDim <= 128 ? 16 : 32;
constant uint kSubsets = 32 / kLanes;

// Literal bounds, so that arrays over heads become registers before kGroup is known.
#define EACH_HEAD(g)                                                                \
  _Pragma("clang loop unroll(full)") for (uint g = 0; g < uint(kAttentionMaxGroup); \
                                          ++g) if (g < kGroup)

// What a lane keeps per query head.
struct Scores {
  float v[kAttentionMaxGroup];
};
struct Rows {
  KVChunk v[kAttentionMaxGroup];
};

inline void mask_all(thread Scores& scores) {
#pragma unroll(8)
  for (uint g = 0; g < uint(kAttentionMaxGroup); ++g) scores.v[g] = kMasked;
}

// Where a lane works.
struct Lane {
  uint index;
  uint simdgroup;
  uint thread_index;
  uint subset;  // which of its simdgroup's tiles
  uint chunk;   // which elements of the head; beyond the head for lanes without work
};

// The K or V of one KV head and sequence.
struct HeadCache {
  device const uchar* cache;
  device const int* blocks;  // the sequence's row of the block tables
  ulong block_bytes;
};

// Tokens of one round that a query sees.
struct Round {
  uint begin;    // position of its first token
  uint n_steps;  // of kSubsets tiles each
  uint position;
  uint window;
  uint sinks;
};

inline uint step_tokens() { return kSubsets * kKVTileTokens; }

inline bool is_step_visible(thread const Round& round, uint step) {
  return any_visible(round.begin + step * step_tokens(), step_tokens(), round.position,
                     round.window, round.sinks);
}

// Tokens that are not visible come as zeros; where none is, nothing is read.
template <typename Tile>
inline void load_tile(thread Tile& tile, thread const HeadCache& from, uint type, uint base,
                      uint chunk, uint visible) {
  if (visible == 0 || chunk >= kHeadDim / kKVChunk) return;
  const ulong block = uint(from.blocks[base / kBlockSize]);
  KVPlace place;
  kv_place(place, from.cache + block * from.block_bytes, type, base % kBlockSize, chunk);
  kv_load(tile, place);
  if (visible != 0xff) kv_keep(tile, visible);
}

// Written out with fma, so that no compiler has a choice.
inline float dot8(thread const KVChunk& a, thread const KVChunk& b) {
  float sum = a.lo.x * b.lo.x;
  sum = fma(a.lo.y, b.lo.y, sum);
  sum = fma(a.lo.z, b.lo.z, sum);
  sum = fma(a.lo.w, b.lo.w, sum);
  sum = fma(a.hi.x, b.hi.x, sum);
  sum = fma(a.hi.y, b.hi.y, sum);
  sum = fma(a.hi.z, b.hi.z, sum);
  return fma(a.hi.w, b.hi.w, sum);
}

// Adds across lanes that differ in bit `step`: into x those of x for lanes without the bit, those
// of y for lanes with it.
inline void exchange(thread Scores& x, thread const Scores& y, uint lane, ushort step) {
  const bool upper = (lane & step) != 0;
  EACH_HEAD(g) {
    const float kept = upper ? y.v[g] : x.v[g];
    x.v[g] = kept + simd_shuffle_xor(upper ? x.v[g] : y.v[g], step);
  }
}

// This lane's part of the scores of token t + (lane & 1).
template <typename Tile>
inline void score_pair(thread Scores& to, thread const Tile& tile, thread const Rows& q, uint t,
                       uint lane) {
  KVChunk first;
  KVChunk second;
  kv_chunk(first, tile, t);
  kv_chunk(second, tile, t + 1);
  Scores other;
  EACH_HEAD(g) {
    to.v[g] = dot8(q.v[g], first) * kv_scale(tile, t);
    other.v[g] = dot8(q.v[g], second) * kv_scale(tile, t + 1);
  }
  exchange(to, other, lane, 1);
}

// The scores of token (lane & 7) of the subset's tile.
template <typename Tile>
inline void score_tile(thread Scores& scores, thread const Tile& tile, thread const Rows& q,
                       uint lane) {
  Scores second;
  score_pair(scores, tile, q, 0, lane);
  score_pair(second, tile, q, 2, lane);
  exchange(scores, second, lane, 2);
  Scores third;
  score_pair(third, tile, q, 4, lane);
  score_pair(second, tile, q, 6, lane);
  exchange(third, second, lane, 2);
  exchange(scores, third, lane, 4);
  EACH_HEAD(g) {
    if (kLanes > 8) scores.v[g] += simd_shuffle_xor(scores.v[g], 8);
    if (kLanes > 16) scores.v[g] += simd_shuffle_xor(scores.v[g], 16);
  }
}

// Scores of this simdgroup's tiles of a round, to `scores`; in `largest` that of each head.
template <typename Tile>
inline void score_round(thread Scores& largest, thread const HeadCache& k, thread const Rows& q,
                        thread const Round& round, float softcap, thread const Lane& lane,
                        threadgroup float4* scores) {
  for (uint step = lane.simdgroup; step < round.n_steps; step += kAttentionSimdgroups) {
    const uint token = (step * kSubsets + lane.subset) * kKVTileTokens;
    const uint visible =
        visible_tokens(round.begin + token, round.position, round.window, round.sinks);
    Scores s;
    mask_all(s);
    if (is_step_visible(round, step)) {
      Tile tile = {};
      load_tile(tile, k, kKType, round.begin + token, lane.chunk, visible);
      score_tile(s, tile, q, lane.index);
    }
    const uint own = lane.index % kKVTileTokens;
    const bool is_visible = (visible >> own & 1) != 0;
    EACH_HEAD(g) {
      s.v[g] = is_visible ? capped(s.v[g], softcap) : kMasked;
      largest.v[g] = max(largest.v[g], s.v[g]);
    }
    if (lane.chunk < uint(kKVTileTokens)) {
      scores[token + own] = float4(s.v[0], s.v[1], s.v[2], s.v[3]);
      if (kGroup > 4) scores[kRound + token + own] = float4(s.v[4], s.v[5], s.v[6], s.v[7]);
    }
  }
}

// Adds the values of this simdgroup's tiles, weighted, to `sums`.
template <typename Tile>
inline void add_values(thread Rows& sums, thread const HeadCache& v, thread const Round& round,
                       thread const Lane& lane, threadgroup const float4* weights) {
  for (uint step = lane.simdgroup; step < round.n_steps; step += kAttentionSimdgroups) {
    if (!is_step_visible(round, step)) continue;
    const uint token = (step * kSubsets + lane.subset) * kKVTileTokens;
    const uint visible =
        visible_tokens(round.begin + token, round.position, round.window, round.sinks);
    Tile tile = {};
    load_tile(tile, v, kVType, round.begin + token, lane.chunk, visible);
#pragma unroll(8)
    for (uint t = 0; t < 8; ++t) {
      KVChunk value;
      kv_chunk(value, tile, t);
      const float4 low = weights[token + t];
      const float4 high = kGroup > 4 ? weights[kRound + token + t] : float4(0);
      EACH_HEAD(g) {
        const float weight = (g < 4 ? low[g % 4] : high[g % 4]) * kv_scale(tile, t);
        sums.v[g].lo = fma(float4(weight), value.lo, sums.v[g].lo);
        sums.v[g].hi = fma(float4(weight), value.hi, sums.v[g].hi);
      }
    }
  }
}

// Calls a template with the tile of a KVType.
#define WITH_TILE(type, function, ...)   \
  switch (type) {                        \
    case kKVF32:                         \
      function<KVTileF32>(__VA_ARGS__);  \
      break;                             \
    case kKVF16:                         \
      function<KVTileF16>(__VA_ARGS__);  \
      break;                             \
    case kKVBF16:                        \
      function<KVTileBF16>(__VA_ARGS__); \
      break;                             \
    case kKVQ8_0:                        \
      function<KVTileQ8>(__VA_ARGS__);   \
      break;                             \
    default:                             \
      function<KVTileQ4>(__VA_ARGS__);   \
      break;                             \
  }

// The largest of each head over the threadgroup, given to every lane. Ends the writing of scores.
inline void threadgroup_largest(thread Scores& scores, thread const Lane& lane,
                                threadgroup float* partial) {
  EACH_HEAD(g) {
#pragma unroll(5)
    for (ushort step = 1; step < 32; step *= 2)
      scores.v[g] = max(scores.v[g], simd_shuffle_xor(scores.v[g], step));
    if (lane.index == 0) partial[lane.simdgroup * kAttentionMaxGroup + g] = scores.v[g];
  }
  threadgroup_barrier(mem_flags::mem_threadgroup);
  EACH_HEAD(g) {
#pragma unroll(4)
    for (uint i = 0; i < uint(kAttentionSimdgroups); ++i)
      scores.v[g] = max(scores.v[g], partial[i * kAttentionMaxGroup + g]);
  }
}

// The same for sums, which are added in a fixed order.
inline void threadgroup_total(thread Scores& sums, thread const Lane& lane,
                              threadgroup float* partial) {
  EACH_HEAD(g) {
#pragma unroll(5)
    for (ushort step = 1; step < 32; step *= 2) sums.v[g] += simd_shuffle_xor(sums.v[g], step);
    if (lane.index == 0) partial[lane.simdgroup * kAttentionMaxGroup + g] = sums.v[g];
  }
  threadgroup_barrier(mem_flags::mem_threadgroup);
  EACH_HEAD(g) {
    sums.v[g] = 0.0f;
#pragma unroll(4)
    for (uint i = 0; i < uint(kAttentionSimdgroups); ++i)
      sums.v[g] += partial[i * kAttentionMaxGroup + g];
  }
}

// Turns a round's scores into weights; each thread adds those that it makes to `total`.
inline void weigh_round(thread Scores& total, thread const Round& round,
                        thread const Scores& largest, thread const Lane& lane,
                        threadgroup float4* scores) {
  const float4 low = float4(largest.v[0], largest.v[1], largest.v[2], largest.v[3]);
  const float4 high = float4(largest.v[4], largest.v[5], largest.v[6], largest.v[7]);
  const uint n_tokens = round.n_steps * step_tokens();
  for (uint i = lane.thread_index; i < n_tokens; i += kAttentionThreads) {
    const float4 weights = exp2(scores[i] - low);
    scores[i] = weights;
    float4 more = float4(0);
    if (kGroup > 4) {
      more = exp2(scores[kRound + i] - high);
      scores[kRound + i] = more;
    }
    EACH_HEAD(g) total.v[g] += g < 4 ? weights[g % 4] : more[g % 4];
  }
}

// The queries of this lane's chunk, in units of log2(e). Heads beyond n_heads repeat the last one.
inline void load_queries(thread Rows& rows, device const float* q, uint n_heads, float scale,
                         uint chunk) {
  if (chunk >= kHeadDim / kKVChunk) return;
  EACH_HEAD(g) {
    device const float4* row =
        (device const float4*)(q + min(g, n_heads - 1) * kHeadDim) + chunk * 2;
    rows.v[g].lo = row[0] * (scale * M_LOG2E_F);
    rows.v[g].hi = row[1] * (scale * M_LOG2E_F);
  }
}

// Adds the sums of a simdgroup's subsets; every subset then has the total.
inline void add_subsets(thread Rows& sums) {
  EACH_HEAD(g) {
    if (kLanes < 16) {
      sums.v[g].lo += simd_shuffle_xor(sums.v[g].lo, 8);
      sums.v[g].hi += simd_shuffle_xor(sums.v[g].hi, 8);
    }
    if (kLanes < 32) {
      sums.v[g].lo += simd_shuffle_xor(sums.v[g].lo, 16);
      sums.v[g].hi += simd_shuffle_xor(sums.v[g].hi, 16);
    }
  }
}

// Where a head's sums go, [head_dim] each, `stride` floats from one head to the next.
struct Destination {
  device float* sums;
  ulong stride;
  uint n_heads;
};

// Adds the simdgroups' sums, two heads at a time, and writes them times `factors`.
inline void write_sums(thread const Rows& sums, thread const Scores& factors,
                       thread const Destination& to, thread const Lane& lane,
                       threadgroup float4* shared) {
  const uint n = kHeadDim / 4;  // of a head
#pragma unroll(4)
  for (uint pair = 0; pair < uint(kAttentionMaxGroup) / 2; ++pair) {
    if (2 * pair >= kGroup) break;
    if (lane.subset == 0 && lane.chunk < kHeadDim / kKVChunk) {
#pragma unroll(2)
      for (uint h = 0; h < 2; ++h) {
        if (2 * pair + h >= kGroup) continue;
        threadgroup float4* row = shared + (lane.simdgroup * 2 + h) * n + lane.chunk * 2;
        row[0] = sums.v[2 * pair + h].lo * factors.v[2 * pair + h];
        row[1] = sums.v[2 * pair + h].hi * factors.v[2 * pair + h];
      }
    }
    threadgroup_barrier(mem_flags::mem_threadgroup);
    for (uint i = lane.thread_index; i < 2 * n; i += kAttentionThreads) {
      const uint head = 2 * pair + i / n;
      float4 total = float4(0);
#pragma unroll(4)
      for (uint j = 0; j < uint(kAttentionSimdgroups); ++j) total += shared[j * 2 * n + i];
      if (head < to.n_heads) ((device float4*)(to.sums + head * to.stride))[i % n] = total;
    }
    threadgroup_barrier(mem_flags::mem_threadgroup);
  }
}

// The partition that a token's slot stands for: those of the sinks come first.
inline uint partition_of_slot(uint slot, uint position, uint window, uint sinks) {
  const uint n_sink_slots = attention_sink_slots(position, window, sinks, kPartition);
  if (slot < n_sink_slots) return slot;
  return attention_begin(position, window) / kPartition + slot - n_sink_slots;
}

kernel void attention_decode(device const float* q [[buffer(kDecodeQ)]],
                             device const uchar* k_cache [[buffer(kDecodeKCache)]],
                             device const uchar* v_cache [[buffer(kDecodeVCache)]],
                             device const int* block_tables [[buffer(kDecodeBlockTables)]],
                             device const int* positions [[buffer(kDecodePositions)]],
                             device const AttentionItem* items [[buffer(kDecodeItems)]],
                             device float* out [[buffer(kDecodeOut)]],
                             device float* partials [[buffer(kDecodePartials)]],
                             device float2* partial_sums [[buffer(kDecodePartialSums)]],
                             constant AttentionParams& params [[buffer(kDecodeParams)]],
                             threadgroup float4* shared [[threadgroup(0)]],
                             uint3 place [[threadgroup_position_in_grid]],
                             uint lane_index [[thread_index_in_simdgroup]],
                             uint simdgroup [[simdgroup_index_in_threadgroup]]) {
  threadgroup float partial[kAttentionSimdgroups * kAttentionMaxGroup];
  const uint slot = place.x;
  const uint token = items[place.z].first_token;
  const uint position = uint(positions[token]);
  const uint n_slots = attention_slots(position, params.window, params.sinks, kPartition);
  if (slot >= n_slots) return;
  const Lane lane = {lane_index, simdgroup, simdgroup * 32 + lane_index, lane_index / kLanes,
                     lane_index % kLanes};

  const uint ratio = params.n_heads / params.n_kv_heads;
  const uint n_splits = (ratio + kGroup - 1) / kGroup;
  const uint kv_head = place.y / n_splits;
  const uint first_of_ratio = place.y % n_splits * kGroup;
  const uint n_heads = min(ratio - first_of_ratio, kGroup);
  const ulong first_head = ulong(token) * params.n_heads + kv_head * ratio + first_of_ratio;
  Rows queries = {};
  load_queries(queries, q + first_head * kHeadDim, n_heads, params.scale, lane.chunk);

  device const int* blocks = block_tables + ulong(items[place.z].sequence) * params.max_blocks;
  const uint k_bytes = kv_head_bytes(kKType, kHeadDim, kBlockSize);
  const uint v_bytes = kv_head_bytes(kVType, kHeadDim, kBlockSize);
  const HeadCache k = {k_cache + ulong(kv_head) * k_bytes, blocks,
                       ulong(params.n_kv_heads) * k_bytes};
  const HeadCache v = {v_cache + ulong(kv_head) * v_bytes, blocks,
                       ulong(params.n_kv_heads) * v_bytes};

  Scores largest;
  mask_all(largest);
  Scores total = {};
  Rows sums = {};
  const uint begin = partition_of_slot(slot, position, params.window, params.sinks) * kPartition;
  for (uint i = 0; i < kPartition; i += kRound) {
    if (!any_visible(begin + i, kRound, position, params.window, params.sinks)) continue;
    const uint n_tokens = min(kRound, position + 1 - (begin + i));
    const Round round = {begin + i, (n_tokens + step_tokens() - 1) / step_tokens(), position,
                         params.window, params.sinks};
    Scores found;
    mask_all(found);
    WITH_TILE(kKType, score_round, found, k, queries, round, params.softcap, lane, shared)
    threadgroup_largest(found, lane, partial);
    EACH_HEAD(g) {
      const float next = max(largest.v[g], found.v[g]);
      const float factor = exp2(largest.v[g] - next);
      largest.v[g] = next;
      total.v[g] *= factor;
      sums.v[g].lo *= factor;
      sums.v[g].hi *= factor;
    }
    weigh_round(total, round, largest, lane, shared);
    threadgroup_barrier(mem_flags::mem_threadgroup);
    WITH_TILE(kVType, add_values, sums, v, round, lane, shared)
    // A simdgroup's next scores replace weights that it alone has read.
    simdgroup_barrier(mem_flags::mem_threadgroup);
  }

  add_subsets(sums);
  threadgroup_total(total, lane, partial);
  Scores factors;
  EACH_HEAD(g) factors.v[g] = n_slots == 1 ? 1.0f / total.v[g] : 1.0f;
  const ulong first_row =
      (ulong(place.z) * params.n_heads + kv_head * ratio + first_of_ratio) * params.max_slots +
      slot;
  const Destination to = {
      n_slots == 1 ? out + first_head * kHeadDim : partials + first_row * kHeadDim,
      n_slots == 1 ? kHeadDim : ulong(params.max_slots) * kHeadDim, n_heads};
  write_sums(sums, factors, to, lane, shared);
  if (n_slots == 1 || lane.thread_index != 0) return;
  EACH_HEAD(g) {
    if (g < n_heads)
      partial_sums[first_row + ulong(g) * params.max_slots] = float2(largest.v[g], total.v[g]);
  }
}

kernel void attention_decode_reduce(device const float* partials [[buffer(kReducePartials)]],
                                    device const float2* partial_sums
                                    [[buffer(kReducePartialSums)]],
                                    device const int* positions [[buffer(kReducePositions)]],
                                    device const AttentionItem* items [[buffer(kReduceItems)]],
                                    device float* out [[buffer(kReduceOut)]],
                                    constant AttentionParams& params [[buffer(kReduceParams)]],
                                    uint2 place [[threadgroup_position_in_grid]],
                                    uint lane [[thread_index_in_simdgroup]],
                                    uint simdgroup [[simdgroup_index_in_threadgroup]]) {
  const uint head = place.x * kAttentionSimdgroups + simdgroup;
  const uint token = items[place.y].first_token;
  const uint n_slots =
      attention_slots(uint(positions[token]), params.window, params.sinks, kPartition);
  if (n_slots == 1 || head >= params.n_heads) return;  // a simdgroup as a whole
  const ulong row = (ulong(place.y) * params.n_heads + head) * params.max_slots;

  float largest = kMasked;
  for (uint i = lane; i < n_slots; i += 32) largest = max(largest, partial_sums[row + i].x);
#pragma unroll(5)
  for (ushort step = 1; step < 32; step *= 2)
    largest = max(largest, simd_shuffle_xor(largest, step));

  const uint n = kHeadDim / 4;
  float total = 0.0f;
  float4 low = float4(0);   // elements 4 * lane and on
  float4 high = float4(0);  // elements 128 + 4 * lane and on
  for (uint first = 0; first < n_slots; first += 32) {
    const uint slot = first + lane;
    float weight = 0.0f;
    if (slot < n_slots) {
      const float2 sums = partial_sums[row + slot];
      weight = exp2(sums.x - largest);
      total += weight * sums.y;
    }
    for (uint i = 0; i < min(n_slots - first, 32u); ++i) {
      const float factor = simd_shuffle(weight, ushort(i));
      device const float4* part = (device const float4*)(partials + (row + first + i) * kHeadDim);
      if (lane < n) low += factor * part[lane];
      if (lane + 32 < n) high += factor * part[lane + 32];
    }
  }
#pragma unroll(5)
  for (ushort step = 1; step < 32; step *= 2) total += simd_shuffle_xor(total, step);

  device float4* to = (device float4*)(out + (ulong(token) * params.n_heads + head) * kHeadDim);
  if (lane < n) to[lane] = low / total;
  if (lane + 32 < n) to[lane + 32] = high / total;
}
