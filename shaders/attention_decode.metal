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
#include "decode_keys.h"
#include "decode_lanes.h"
#include "decode_values.h"

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

// What rounds hand on, in threadgroup memory: registers would be taken all the time.
struct Softmax {
  threadgroup float* largest;  // score of each head
  threadgroup float* total;    // of weights, of each simdgroup and head
};

// A threadgroup barrier has to follow.
inline void start_softmax(thread const Softmax& softmax, thread const Lane& lane) {
  if (lane.index >= kAttentionMaxGroup) return;
  softmax.largest[lane.index] = kMasked;
  softmax.total[lane.simdgroup * kAttentionMaxGroup + lane.index] = 0.0f;
}

// A simdgroup's totals times `factors`.
inline void scale_totals(thread const Softmax& softmax, thread const Scores& factors,
                         thread const Lane& lane) {
  if (lane.index != 0) return;
  EACH_HEAD(g) softmax.total[lane.simdgroup * kAttentionMaxGroup + g] *= factors.v[g];
}

// Adds the weights of a simdgroup's lanes to its totals, in a fixed order.
inline void add_totals(thread const Softmax& softmax, thread Scores& weights,
                       thread const Lane& lane) {
  EACH_HEAD(g) {
#pragma unroll(5)
    for (ushort step = 1; step < 32; step *= 2)
      weights.v[g] += simd_shuffle_xor(weights.v[g], step);
    if (lane.index == 0) softmax.total[lane.simdgroup * kAttentionMaxGroup + g] += weights.v[g];
  }
}

// Those of all simdgroups, in a fixed order.
inline void read_totals(thread Scores& total, thread const Softmax& softmax) {
  EACH_HEAD(g) {
    total.v[g] = 0.0f;
#pragma unroll(4)
    for (uint i = 0; i < uint(kAttentionSimdgroups); ++i)
      total.v[g] += softmax.total[i * kAttentionMaxGroup + g];
  }
}

// Turns a round's scores into weights; each thread adds those that it makes to `total`.
inline void weigh_round(thread Scores& total, thread const Round& round,
                        thread const Scores& largest, thread const Lane& lane,
                        threadgroup float4* scores) {
  const float4 low = float4(largest.v[0], largest.v[1], largest.v[2], largest.v[3]);
  const float4 high = float4(largest.v[4], largest.v[5], largest.v[6], largest.v[7]);
  for (uint i = round.first + lane.thread_index; i < round.end; i += kAttentionThreads) {
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

// One of a lane's values, for a head that only the GPU knows.
inline float of_head(thread const Scores& values, uint head) {
  float value = 0.0f;
  EACH_HEAD(g) value = g == head ? values.v[g] : value;
  return value;
}

// Those of the heads of a lane's two columns.
inline float2 of_columns(thread const Scores& values, thread const MatrixPlace& place) {
  const uint head = first_head(place);
  return float2(of_head(values, head), of_head(values, kIsSplit ? head + 1 : head));
}

// How many scale groups of all simdgroups have room where scores were: a divisor of kValueGroups.
constant uint kHeadsOfSums = kIsSplit ? 8 : 4;
constant uint kRoomForGroups = attention_score_bytes(kHeadDim, kGroup, kRound) /
                               (kAttentionSimdgroups * kHeadsOfSums * kKVScaleGroup * 4);
constant uint kGroupsAtOnce = kRoomForGroups < 2 ? 1 : kRoomForGroups < 4 ? 2 : 4;

// The same of matrices. `factors` are those of the lane's columns.
inline void write_matrix_sums(thread MatrixSums& sums, float2 factors, thread const Destination& to,
                              thread const Lane& lane, thread const MatrixPlace& place,
                              threadgroup float4* shared) {
  const uint n = kKVScaleGroup / 4;
  const uint row = kHeadsOfSums * n;  // of a simdgroup's scale group
  threadgroup float4* own = shared + lane.simdgroup * row + first_head(place) * n + place.row;
#pragma unroll(4)
  for (uint first = 0; first < uint(kValueGroups); ++first) {
    if (first % kGroupsAtOnce != 0) continue;
    EACH_VALUE_GROUP(s) {
      if (s / kGroupsAtOnce != first / kGroupsAtOnce) continue;
      float4 x;
      float4 y;
#pragma unroll(4)
      for (uint i = 0; i < 4; ++i) {
        x[i] = sums.v[4 * s + i].thread_elements()[0] * factors.x;
        y[i] = sums.v[4 * s + i].thread_elements()[1] * factors.y;
      }
      threadgroup float4* to_write = own + (s - first) * kAttentionSimdgroups * row;
      to_write[0] = kIsSplit ? x : x + y;
      if (kIsSplit) to_write[n] = y;
    }
    threadgroup_barrier(mem_flags::mem_threadgroup);
    const uint n_elements = kGroupsAtOnce * n;  // of a head and part
    for (uint i = lane.thread_index; i < kValueParts * kGroup * n_elements;
         i += kAttentionThreads) {
      const uint part = i / (kGroup * n_elements);
      const uint head = i / n_elements % kGroup;
      const uint s = i / n % kGroupsAtOnce;
      float4 total = float4(0);
#pragma unroll(4)
      for (uint j = part; j < uint(kAttentionSimdgroups); j += kValueParts)
        total += shared[(s * kAttentionSimdgroups + j) * row + head * n + i % n];
      const uint at = (part * kValueGroups + first + s) * n + i % n;
      if (head < to.n_heads && at < kHeadDim / 4)
        ((device float4*)(to.sums + head * to.stride))[at] = total;
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
  threadgroup float4 starts[8 * kMaxSmallGroups];
  threadgroup float so_far[kAttentionMaxGroup];
  threadgroup float totals[kAttentionSimdgroups * kAttentionMaxGroup];
  // What only the end needs, and until then would take registers.
  threadgroup uint later[2];
  threadgroup ulong rows[2];  // of the first head, among partial sums and in `out`
  const uint slot = place.x;
  const uint token = items[place.z].first_token;
  const uint position = uint(positions[token]);
  const uint n_slots = attention_slots(position, params.window, params.sinks, kPartition);
  if (slot >= n_slots) return;
  const Lane lane = {lane_index, simdgroup, simdgroup * 32 + lane_index, lane_index / kLanes,
                     lane_index % kLanes};

  const uint ratio = params.n_heads / params.n_kv_heads;
  const uint n_splits = (ratio + kGroup - 1) / kGroup;
  // Divisions by what only the GPU knows take tens of instructions.
  const uint kv_head = n_splits == 1 ? place.y : place.y / n_splits;
  const uint first_of_ratio = n_splits == 1 ? 0 : place.y % n_splits * kGroup;
  const uint n_heads = min(ratio - first_of_ratio, kGroup);
  const ulong first_head = ulong(token) * params.n_heads + kv_head * ratio + first_of_ratio;
  device const float* own_q = q + first_head * kHeadDim;
  if (lane.thread_index == 0) {
    later[0] = n_slots;
    later[1] = n_heads;
    const uint head = kv_head * ratio + first_of_ratio;
    rows[0] = (ulong(place.z) * params.n_heads + head) * params.max_slots + slot;
    rows[1] = ulong(token) * params.n_heads + head;
  }
  const Softmax softmax = {so_far, totals};
  start_softmax(softmax, lane);
  const bool by_matrices_k = kv_has_scales(kKType);
  const bool by_matrices_v = kv_has_scales(kVType);
  MatrixPlace at = {0, 0, 0, 0};
  device const int* blocks = block_tables + ulong(items[place.z].sequence) * params.max_blocks;
  const uint k_bytes = kv_head_bytes(kKType, kHeadDim, kBlockSize);
  const uint v_bytes = kv_head_bytes(kVType, kHeadDim, kBlockSize);
  const HeadCache k = {k_cache + ulong(kv_head) * k_bytes, blocks, params.n_kv_heads * k_bytes};
  const HeadCache v = {v_cache + ulong(kv_head) * v_bytes, blocks, params.n_kv_heads * v_bytes};

  const uint begin = partition_of_slot(slot, position, params.window, params.sinks) * kPartition;
  const int2 first_ids =
      kByMatrices ? read_blocks(blocks, begin, position, lane.thread_index) : int2(0);
  const uint score_bytes = attention_score_bytes(kHeadDim, kGroup, kRound);
  BlockIds ids = {};
  if (kByMatrices) {
    find_place(at, (threadgroup half*)shared + simdgroup * 68, lane_index);
    threadgroup int* stage = (threadgroup int*)shared + score_bytes / 4 +
                             (by_matrices_k ? attention_query_bytes(kHeadDim, kGroup) / 4 : 0);
    store_blocks(ids, stage, blocks, first_ids, begin, position, lane.thread_index);
    if (by_matrices_k) find_largest(partial, own_q, n_heads, lane);
    // Scores may replace now what told the places.
    threadgroup_barrier(mem_flags::mem_threadgroup);
  }
  Rows queries = {};
  MatrixQueries matrix_queries;
  KeyTile key_tiles[2];  // one is under way
  uint first_round = 0;
  if (by_matrices_k) {
    while (first_round + kRound < kPartition &&
           !any_visible(begin + first_round, kRound, position, params.window, params.sinks))
      first_round += kRound;
    Round round;
    make_round(round, begin + first_round, position, params.window, params.sinks);
    start_keys_by_type(key_tiles[0], k, ids, round, lane, at);
    store_queries(matrix_queries, (threadgroup uint4*)shared + score_bytes / 16, starts, partial,
                  own_q, n_heads, params.scale, lane, at);
    matrix_queries.softcap = params.softcap;
    threadgroup_barrier(mem_flags::mem_threadgroup);
  } else {
    load_queries(queries, own_q, n_heads, params.scale, lane.chunk);
  }

  Rows sums = {};
  simdgroup_float8x8 matrices[kSums];
  MatrixSums matrix_sums;
  matrix_sums.v = matrices;
  if (by_matrices_v) start_sums(matrix_sums);
  for (uint i = first_round; i < kPartition; i += kRound) {
    if (!any_visible(begin + i, kRound, position, params.window, params.sinks)) continue;
    Round round;
    make_round(round, begin + i, position, params.window, params.sinks);
    if (by_matrices_k && i != first_round)
      start_keys_by_type(key_tiles[0], k, ids, round, lane, at);
    Scores found;
    mask_all(found);
    switch (kKType) {
      case kKVQ8_0:
        score_round_by_matrices<2>(found, key_tiles, k, ids, matrix_queries, round, lane, at,
                                   (threadgroup float*)shared);
        break;
      case kKVQ4_0:
        score_round_by_matrices<4>(found, key_tiles, k, ids, matrix_queries, round, lane, at,
                                   (threadgroup float*)shared);
        break;
      default:
        WITH_TILE(kKType, score_round, found, k, queries, round, params.softcap, lane, shared)
    }
    ValueTile value_tiles[2];  // one is under way
    ValueLane value_lane;
    if (by_matrices_v) {
      find_values(value_lane, v, lane, at);
      start_values(value_tiles[0], value_lane, ids, round, lane, at);
    }
    threadgroup_largest(found, lane, partial);
    Scores largest;
    mask_all(largest);
    Scores rescale = {};
    EACH_HEAD(g) {
      const float before = softmax.largest[g];
      largest.v[g] = max(before, found.v[g]);
      rescale.v[g] = exp2(before - largest.v[g]);
      sums.v[g].lo *= rescale.v[g];
      sums.v[g].hi *= rescale.v[g];
    }
    if (by_matrices_v) scale_sums(matrix_sums, of_columns(rescale, at));
    scale_totals(softmax, rescale, lane);
    Scores weights = {};
    weigh_round(weights, round, largest, lane, shared);
    add_totals(softmax, weights, lane);
    threadgroup_barrier(mem_flags::mem_threadgroup);
    if (lane.thread_index == 0) {
      EACH_HEAD(g) softmax.largest[g] = largest.v[g];
    }
    switch (kVType) {
      case kKVQ8_0:
      case kKVQ4_0:
        add_values_by_matrices(matrix_sums, value_tiles, value_lane, ids, round, lane, at,
                               (threadgroup float*)shared);
        break;
      default:
        WITH_TILE(kVType, add_values, sums, v, round, lane, shared)
    }
    if (kByMatrices) {
      threadgroup_barrier(mem_flags::mem_threadgroup);
    } else {
      // All rounds begin at their first token: a simdgroup's next scores replace weights that it
      // alone has read.
      simdgroup_barrier(mem_flags::mem_threadgroup);
    }
  }

  threadgroup_barrier(mem_flags::mem_threadgroup);
  Scores total = {};
  read_totals(total, softmax);
  const bool is_only = later[0] == 1;
  Scores factors;
  EACH_HEAD(g) factors.v[g] = is_only ? 1.0f / total.v[g] : 1.0f;
  const ulong first_row = rows[0];
  const Destination to = {is_only ? out + rows[1] * kHeadDim : partials + first_row * kHeadDim,
                          is_only ? kHeadDim : ulong(params.max_slots) * kHeadDim, later[1]};
  if (by_matrices_v) {
    // Rows of q4_0's high halves of bytes are of values times 16.
    const float unit =
        kVType == kKVQ4_0 && at.row % 2 != 0 ? kLargestWeight * 16.0f : kLargestWeight;
    write_matrix_sums(matrix_sums, of_columns(factors, at) * (matrix_sums.limit / unit), to, lane,
                      at, shared);
  } else {
    add_subsets(sums);
    write_sums(sums, factors, to, lane, shared);
  }
  if (is_only || lane.thread_index != 0) return;
  EACH_HEAD(g) {
    if (g < to.n_heads)
      partial_sums[first_row + ulong(g) * params.max_slots] =
          float2(softmax.largest[g], total.v[g]);
  }
}

// Partial sums that a simdgroup asks for before it waits for the first of them.
constant uint kSlotsAtOnce = kHeadDim <= 128 ? 16 : 8;

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
    for (uint i = 0; i < min(n_slots - first, 32u); i += kSlotsAtOnce) {
      float4 lows[16];
      float4 highs[16];
#pragma unroll(16)
      for (uint j = 0; j < 16; ++j) {
        if (j >= kSlotsAtOnce) continue;
        const ulong at = row + min(first + i + j, n_slots - 1);
        device const float4* part = (device const float4*)(partials + at * kHeadDim);
        lows[j] = lane < n ? part[lane] : float4(0);
        highs[j] = lane + 32 < n ? part[lane + 32] : float4(0);
      }
#pragma unroll(16)
      for (uint j = 0; j < 16; ++j) {
        if (j >= kSlotsAtOnce) continue;
        const float factor = simd_shuffle(weight, ushort(i + j));  // 0 behind the last slot
        low += factor * lows[j];
        high += factor * highs[j];
      }
    }
  }
#pragma unroll(5)
  for (ushort step = 1; step < 32; step *= 2) total += simd_shuffle_xor(total, step);

  device float4* to = (device float4*)(out + (ulong(token) * params.n_heads + head) * kHeadDim);
  if (lane < n) to[lane] = low / total;
  if (lane + 32 < n) to[lane + 32] = high / total;
}
