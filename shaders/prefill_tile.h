// A tile of keys and values of attention_prefill: from the cache to threadgroup memory, and from
// there to matrices of 8x8.
//
// A lane holds one row and two neighbouring columns of a matrix. Sums over a head's elements, and
// over keys, may take them in any order that both factors share, so a lane reads 16 neighbouring
// bytes, and two elements at a time they are its columns of several matrices: nothing is read in
// pieces, nothing moves between lanes. Keys lie token by token, values element by element.
#pragma once
#include "kv_tile.h"
#include "matrix_lanes.h"

// Where in a matrix a lane's elements are: columns 2 * pair and 2 * pair + 1 of a row.
struct LanePlace {
  uint row;
  uint pair;
  ushort steps[3];  // of lane indices, by way of which all lanes with this pair are reached
};

// `stage` is the simdgroup's, 64 elements.
inline void find_place(thread LanePlace& place, threadgroup half* stage, uint lane) {
  store_indices(stage, lane);
  simdgroup_barrier(mem_flags::mem_threadgroup);
  read_indices(place.row, place.pair, stage);
  uint bits = 0;
#pragma unroll
  for (ushort bit = 1; bit < 32; bit *= 2)
    if (simd_shuffle_xor(place.pair, bit) == place.pair) bits |= bit;
#pragma unroll
  for (ushort i = 0; i < 3; ++i) {
    place.steps[i] = ushort(bits & (0 - bits));
    bits &= bits - 1;
  }
  simdgroup_barrier(mem_flags::mem_threadgroup);  // `stage` is read
}

// Eight elements of two neighbouring tokens, as they lie in the cache.
struct TokenPair {
  uint4 words[4];
  half2 scales;
  uint n_there;  // of the two tokens
};

// The K or the V of one KV head and sequence.
struct TileSource {
  device const uchar* cache;
  device const int* blocks;  // the sequence's row of the block tables
  uint block_bytes;
  int last_block;  // of the last position: that one is there
  uint type;
};

// `token` of a block and the next one; it is even, so they share what they are packed into.
inline void read_pair(thread TokenPair& to, device const uchar* run, uint type, uint token,
                      uint chunk) {
  device const uchar* from = run + kv_chunk_offset(type, kHeadDim, token, chunk);
  device const uint4* words = (device const uint4*)from;
  if (type == kKVF32) {
    to.words[0] = words[0];
    to.words[1] = words[1];
    to.words[2] = words[kHeadDim / 4];
    to.words[3] = words[kHeadDim / 4 + 1];
  } else if (type == kKVF16 || type == kKVBF16) {
    to.words[0] = words[0];
    to.words[1] = words[kHeadDim / 8];
  } else {
    if (type == kKVQ8_0) {
      to.words[0] = words[0];
    } else {
      const uint2 word = *(device const uint2*)from;
      to.words[0] = uint4(word.x, word.y, 0, 0);
    }
    to.scales = *(device const half2*)(run + kv_scale_offset(type, kHeadDim, kBlockSize, token,
                                                             chunk * kKVChunk / kKVScaleGroup));
  }
}

// Empties what is not there: memory that nobody wrote may hold a NaN.
inline void clear_missing(thread TokenPair& pair, uint type) {
  if (pair.n_there < 2) {
    pair.scales.y = half(0);
    pair.words[type == kKVF32 ? 2 : 1] = pair.words[3] = uint4(0);
  }
  if (pair.n_there == 0) {
    pair.scales.x = half(0);
    pair.words[0] = pair.words[1] = uint4(0);
  }
}

// The elements of token i of a pair; i is a literal once loops are unrolled.
inline void elements_of(thread KVChunk& to, thread const TokenPair& from, uint type, ushort i) {
  if (type == kKVF32) {
    chunk_f32(to, from.words[2 * i], from.words[2 * i + 1]);
  } else if (type == kKVF16) {
    chunk_f16(to, from.words[i]);
  } else if (type == kKVBF16) {
    chunk_bf16(to, from.words[i]);
  } else {
    if (type == kKVQ8_0) {
      chunk_q8(to, uint2(from.words[0][2 * i], from.words[0][2 * i + 1]));
    } else {
      chunk_q4(to, from.words[0][i]);
    }
    to.lo *= float(from.scales[i]);
    to.hi *= float(from.scales[i]);
  }
}

// The same as elements of a matrix; halves stay as they are.
inline void elements_of(thread float4& lo, thread float4& hi, thread const TokenPair& from,
                        uint type, ushort i) {
  KVChunk x;
  elements_of(x, from, type, i);
  lo = x.lo;
  hi = x.hi;
}
inline void elements_of(thread half4& lo, thread half4& hi, thread const TokenPair& from, uint type,
                        ushort i) {
  if (type == kKVF16) {
    lo = as_type<half4>(uint2(from.words[i].x, from.words[i].y));
    hi = as_type<half4>(uint2(from.words[i].z, from.words[i].w));
  } else {
    KVChunk x;
    elements_of(x, from, type, i);
    lo = half4(x.lo);
    hi = half4(x.hi);
  }
}

inline void store4(threadgroup half* to, float4 x) { *(threadgroup half4*)to = half4(x); }
inline void store4(threadgroup float* to, float4 x) { *(threadgroup float4*)to = x; }
inline void store2(threadgroup half* to, half x, half y) { *(threadgroup half2*)to = half2(x, y); }
inline void store2(threadgroup float* to, float x, float y) {
  *(threadgroup float2*)to = float2(x, y);
}

inline void set_elements(thread simdgroup_half8x8& matrix, float2 x) {
  set_elements(matrix, half2(x));
}

// Matrices of a lane's neighbouring bytes.
template <ushort kBytes>
inline void load_matrices(thread simdgroup_half8x8* to, threadgroup const uchar* from) {
  const uint2 first = *(threadgroup const uint2*)from;
  set_elements(to[0], as_type<half2>(first.x));
  set_elements(to[1], as_type<half2>(first.y));
  if (kBytes == 8) return;
  const uint2 second = *(threadgroup const uint2*)(from + 8);
  set_elements(to[2], as_type<half2>(second.x));
  set_elements(to[3], as_type<half2>(second.y));
}
template <ushort kBytes>
inline void load_matrices(thread simdgroup_float8x8* to, threadgroup const uchar* from) {
  const float4 x = *(threadgroup const float4*)from;
  set_elements(to[0], x.xy);
  set_elements(to[1], x.zw);
}

// How tiles lie in threadgroup memory. Keys lie token by token: those with even numbers, a gap, and
// those with odd ones, since lanes read neighbours at the same time, which have to be in different
// banks of memory. A lane reads key_bytes() of a token.
inline constexpr ushort key_bytes(ushort head_dim, ushort size) {
  return head_dim * size % 64 == 0 ? 16 : 8;
}
template <typename M, ushort D, ushort kKeys>
inline uint key_offset(uint token) {
  return token / 2 * D * sizeof(M) +
         token % 2 * (kKeys / 2 * D * sizeof(M) + 4 * attention_prefill_gap(D, sizeof(M)));
}

// Values come in groups of value_keys(). A lane reads 16 bytes: its columns of matrices of the same
// keys for two chunks of elements, then of the next keys. Such blocks have eight rows, the elements
// of a chunk, of 64 bytes, and a gap after them, since what is stored at the same time belongs to
// different chunks.
inline constexpr ushort value_keys(ushort n_keys, ushort size) {
  return n_keys * size < 64 ? n_keys : 64 / size;
}
inline constexpr ushort value_matrices(ushort size) { return 8 / size; }  // of 16 bytes
// Where the block of a chunk's matrix i is.
template <typename M, ushort D, ushort kKeys>
inline uint value_block(uint chunk, uint i) {
  constexpr ushort kOfGroup = value_keys(kKeys, sizeof(M)) / 8;
  constexpr ushort kOfBlock = value_matrices(sizeof(M)) / 2;
  const uint pair = i / kOfGroup * (D / 16) + chunk / 2;
  return (pair * (kOfGroup / kOfBlock) + i % kOfGroup / kOfBlock) *
         (512 + attention_prefill_gap(D, sizeof(M)));
}
// Where a token's element 0 of a chunk is.
template <typename M, ushort D, ushort kKeys>
inline uint value_offset(uint chunk, uint token) {
  constexpr ushort kOfGroup = value_keys(kKeys, sizeof(M));
  constexpr ushort kOfBlock = value_matrices(sizeof(M)) / 2;
  const uint i = token / kOfGroup * (kOfGroup / 8) + token % (kOfGroup / 4) / 2;
  const uint column = i % kOfBlock * 4 + chunk % 2 * 2 + token % 2;
  return value_block<M, D, kKeys>(chunk, i) + token % kOfGroup / (kOfGroup / 4) * 16 +
         column * sizeof(M);
}

// The token of a tile whose key is row `row` of matrix i of products, so that weights have their
// keys in the order in which a lane reads values.
template <typename M, ushort kKeys>
inline uint token_of(ushort i, uint row) {
  constexpr ushort kMatrices = value_keys(kKeys, sizeof(M)) / 8;  // of a group
  return i / kMatrices * kMatrices * 8 + row / 2 * 2 * kMatrices + i % kMatrices * 2 + row % 2;
}

// The element of a head that is row `row` of matrix i of queries.
template <typename M, ushort D>
inline uint element_of(ushort i, uint row) {
  constexpr ushort kMatrices = key_bytes(D, sizeof(M)) / sizeof(M) / 2;  // that a lane reads
  return i / kMatrices * kMatrices * 8 + row / 2 * 2 * kMatrices + i % kMatrices * 2 + row % 2;
}

// What a thread brings in of a tile: pairs of tokens, so that two values of an element are stored
// at once. Threads side by side have the chunks of a token, up to 128 bytes of them.
inline constexpr ushort pairs_of_thread(ushort head_dim, ushort n_keys) {
  return (n_keys / 2 * (head_dim / 8) + kAttentionThreads - 1) / kAttentionThreads;
}
struct PairPlace {
  bool is_inside;
  uint token;
  uint chunk;
};
template <ushort D, ushort kKeys>
inline void place_pair(thread PairPlace& to, ushort i, uint thread_index) {
  constexpr ushort kSpan = D % 64 == 0 ? 8 : D / 8;
  constexpr ushort kSpanPairs = kSpan * (kKeys / 2);
  if (kAttentionThreads % kSpanPairs == 0) {  // a thread has the same tokens for every i
    to.token = thread_index / kSpan % (kKeys / 2) * 2;
    to.chunk = thread_index % kSpan + thread_index / kSpanPairs * kSpan +
               i * (kAttentionThreads / kSpanPairs * kSpan);
    to.is_inside = to.chunk < D / 8;
  } else {
    const uint n = i * kAttentionThreads + thread_index;
    to.token = n / kSpan % (kKeys / 2) * 2;
    to.chunk = n / kSpanPairs * kSpan + n % kSpan;
    to.is_inside = n < kKeys / 2 * (D / 8);
  }
}

// In place of positions after `last`, and of those whose blocks are gone, it reads the last ones.
template <ushort D, ushort kKeys>
inline void read_tile(thread TokenPair* to, thread const TileSource& from, uint base, uint last,
                      uint thread_index) {
#pragma unroll
  for (ushort i = 0; i < pairs_of_thread(D, kKeys); ++i) {
    PairPlace place;
    place_pair<D, kKeys>(place, i, thread_index);
    if (!place.is_inside) continue;
    uint position = min(base + place.token, last & ~1u);
    int block = from.blocks[position / kBlockSize];
    to[i].n_there = block < 0 || base + place.token > last ? 0 : min(last + 1 - position, 2u);
    if (block < 0) {
      position = last & ~1u;
      block = from.last_block;
    }
    read_pair(to[i], from.cache + ulong(uint(block)) * from.block_bytes, from.type,
              position % kBlockSize, place.chunk);
  }
}

template <typename M, ushort D, ushort kKeys>
inline void store_keys(threadgroup uchar* to, thread const TokenPair* from, uint type,
                       uint thread_index) {
#pragma unroll
  for (ushort i = 0; i < pairs_of_thread(D, kKeys); ++i) {
    PairPlace place;
    place_pair<D, kKeys>(place, i, thread_index);
    if (!place.is_inside) continue;
    threadgroup uchar* keys =
        to + key_offset<M, D, kKeys>(place.token) + place.chunk * 8 * sizeof(M);
#pragma unroll
    for (ushort t = 0; t < 2; ++t) {
      vec<M, 4> lo, hi;
      elements_of(lo, hi, from[i], type, t);
      threadgroup vec<M, 4>* key = (threadgroup vec<M, 4>*)(keys + key_offset<M, D, kKeys>(t));
      key[0] = lo;
      key[1] = hi;
    }
  }
}

template <typename M, ushort D, ushort kKeys>
inline void store_values(threadgroup uchar* to, thread TokenPair* from, uint type, bool is_whole,
                         uint thread_index) {
#pragma unroll
  for (ushort i = 0; i < pairs_of_thread(D, kKeys); ++i) {
    PairPlace place;
    place_pair<D, kKeys>(place, i, thread_index);
    if (!place.is_inside) continue;
    if (!is_whole) clear_missing(from[i], type);
    vec<M, 4> x[2], y[2];
    elements_of(x[0], x[1], from[i], type, 0);
    elements_of(y[0], y[1], from[i], type, 1);
    threadgroup uchar* row = to + value_offset<M, D, kKeys>(place.chunk, place.token);
#pragma unroll
    for (ushort e = 0; e < 8; ++e)
      store2((threadgroup M*)(row + 64 * e), x[e / 4][e % 4], y[e / 4][e % 4]);
  }
}
