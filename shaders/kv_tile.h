// Reading K and V: eight tokens by eight elements per lane, in loads of 16 bytes (kv_layout.h).
#pragma once
#include "attention.h"
#include "small_integers.h"

// A chunk of the eight tokens of a tile, as it lies in memory.
struct KVTileF32 {
  uint4 words[16];
};
struct KVTileF16 {
  uint4 words[8];
};
struct KVTileBF16 {
  uint4 words[8];
};

// Where a lane finds its chunk: `data` in the tile's first word, words `stride` apart.
struct KVPlace {
  device const uint4* data;
  uint stride;
};

// The place of `chunk` in the tile that begins with `token` of a block; `run` is the head's.
inline void kv_place(thread KVPlace& place, device const uchar* run, uint type, uint token,
                     uint chunk) {
  place.data = (device const uint4*)(run + kv_chunk_offset(type, kHeadDim, token, chunk));
  place.stride = kHeadDim / kKVChunk;
}

inline void kv_load(thread KVTileF32& tile, thread const KVPlace& from) {
#pragma unroll(8)
  for (uint i = 0; i < 8; ++i) {
    tile.words[2 * i] = from.data[2 * i * from.stride];
    tile.words[2 * i + 1] = from.data[2 * i * from.stride + 1];
  }
}
inline void kv_load(thread KVTileF16& tile, thread const KVPlace& from) {
#pragma unroll(8)
  for (uint i = 0; i < 8; ++i) tile.words[i] = from.data[i * from.stride];
}
inline void kv_load(thread KVTileBF16& tile, thread const KVPlace& from) {
#pragma unroll(8)
  for (uint i = 0; i < 8; ++i) tile.words[i] = from.data[i * from.stride];
}

// Empties the tokens whose bit in `keep` is not set: memory that nobody wrote may hold a NaN.
inline void kv_keep(thread KVTileF32& tile, uint keep) {
#pragma unroll(8)
  for (uint i = 0; i < 8; ++i)
    if ((keep >> i & 1) == 0) tile.words[2 * i] = tile.words[2 * i + 1] = uint4(0);
}
inline void kv_keep(thread KVTileF16& tile, uint keep) {
#pragma unroll(8)
  for (uint i = 0; i < 8; ++i)
    if ((keep >> i & 1) == 0) tile.words[i] = uint4(0);
}
inline void kv_keep(thread KVTileBF16& tile, uint keep) {
#pragma unroll(8)
  for (uint i = 0; i < 8; ++i)
    if ((keep >> i & 1) == 0) tile.words[i] = uint4(0);
}

// The elements of a token, from the bits of one chunk.
inline void chunk_f32(thread KVChunk& to, uint4 lo, uint4 hi) {
  to.lo = as_type<float4>(lo);
  to.hi = as_type<float4>(hi);
}
inline void chunk_f16(thread KVChunk& to, uint4 word) {
  to.lo = float4(as_type<half4>(word.xy));
  to.hi = float4(as_type<half4>(word.zw));
}
inline float4 floats_of_bf16(uint2 word) {
  return as_type<float4>(
      uint4(word.x << 16, word.x & 0xffff0000u, word.y << 16, word.y & 0xffff0000u));
}
inline void chunk_bf16(thread KVChunk& to, uint4 word) {
  to.lo = floats_of_bf16(word.xy);
  to.hi = floats_of_bf16(word.zw);
}
inline void chunk_q8(thread KVChunk& to, uint2 word) {
  to.lo = signed_bytes_of(word.x);
  to.hi = signed_bytes_of(word.y);
}
inline void chunk_q4(thread KVChunk& to, uint word) {
  to.lo = halves_of(word, 8);
  to.hi = halves_of(word >> 4, 8);
}

// Token t of a tile of a type without scales; t is a literal once loops are unrolled.
inline void kv_chunk(thread KVChunk& to, thread const KVTileF32& tile, uint t) {
  chunk_f32(to, tile.words[2 * t], tile.words[2 * t + 1]);
}
inline void kv_chunk(thread KVChunk& to, thread const KVTileF16& tile, uint t) {
  chunk_f16(to, tile.words[t]);
}
inline void kv_chunk(thread KVChunk& to, thread const KVTileBF16& tile, uint t) {
  chunk_bf16(to, tile.words[t]);
}
