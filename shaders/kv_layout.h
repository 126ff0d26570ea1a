// How K and V lie in a block of the cache: included by the shaders and by the host.
//
// A layer's K (and its V) is [n_blocks][n_kv_heads] runs of kv_head_bytes() each, one run per block
// and KV head. Tokens of a block come in tiles of kKVTileTokens, elements of a head in chunks of
// kKVChunk. A run is
//
//   data    [block_size / T][head_dim / 8][T][8 elements]    T = kv_tokens_per_word()
//   scales  [block_size / 8][kv_scale_groups()][8] half      q8_0 and q4_0 only
//
// T tokens' chunks together are a word of 16 bytes (32 for f32, whose T is 1), so that a lane which
// owns a chunk reads 16 bytes at a time whatever the type, its neighbours the bytes beside them,
// and one load of 16 bytes brings the scales of a tile. The values and scales are those of ggml's
// types: f16 and bf16 are rounded to nearest even, q8_0 and q4_0 have one half as the scale of 32
// elements (the last group of a head may be shorter). Bytes of a q4_0 chunk hold elements 0 to 3 in
// their low, 4 to 7 in their high halves.
#pragma once
#include "params.h"

enum KVType : int {
  kKVF32 = 0,
  kKVF16 = 1,
  kKVBF16 = 2,
  kKVQ8_0 = 3,
  kKVQ4_0 = 4,
};

enum KVShape : int {
  kKVTileTokens = 8,   // block sizes are multiples of this
  kKVChunk = 8,        // head sizes are multiples of this
  kKVScaleGroup = 32,  // elements of a head that share a scale
  kKVMaxHeadDim = 256,
};

// Bytes of the kKVChunk elements of one token.
inline constexpr quarrel_uint kv_chunk_bytes(quarrel_uint type) {
  return type == kKVF32 ? 32 : type == kKVQ8_0 ? 8 : type == kKVQ4_0 ? 4 : 16;
}

inline constexpr quarrel_uint kv_tokens_per_word(quarrel_uint type) {
  return type == kKVQ8_0 ? 2 : type == kKVQ4_0 ? 4 : 1;
}

inline constexpr bool kv_has_scales(quarrel_uint type) {
  return type == kKVQ8_0 || type == kKVQ4_0;
}

inline constexpr quarrel_uint kv_scale_groups(quarrel_uint head_dim) {
  return (head_dim + kKVScaleGroup - 1) / kKVScaleGroup;
}

inline constexpr quarrel_uint kv_data_bytes(quarrel_uint type, quarrel_uint head_dim,
                                            quarrel_uint block_size) {
  return block_size * (head_dim / kKVChunk) * kv_chunk_bytes(type);
}

// Bytes of one KV head's K or V in a block; a multiple of 16.
inline constexpr quarrel_uint kv_head_bytes(quarrel_uint type, quarrel_uint head_dim,
                                            quarrel_uint block_size) {
  return kv_data_bytes(type, head_dim, block_size) +
         (kv_has_scales(type) ? block_size * kv_scale_groups(head_dim) * 2 : 0);
}

// Where a token's chunk begins in the run of its head.
inline constexpr quarrel_uint kv_chunk_offset(quarrel_uint type, quarrel_uint head_dim,
                                              quarrel_uint token, quarrel_uint chunk) {
  return ((token / kv_tokens_per_word(type)) * (head_dim / kKVChunk) + chunk) *
             kv_tokens_per_word(type) * kv_chunk_bytes(type) +
         token % kv_tokens_per_word(type) * kv_chunk_bytes(type);
}

// Where the scale of a token's group of kKVScaleGroup elements lies in the run of its head.
inline constexpr quarrel_uint kv_scale_offset(quarrel_uint type, quarrel_uint head_dim,
                                              quarrel_uint block_size, quarrel_uint token,
                                              quarrel_uint group) {
  return kv_data_bytes(type, head_dim, block_size) +
         ((token / kKVTileTokens) * kv_scale_groups(head_dim) + group) * 16 +
         token % kKVTileTokens * 2;
}

// Bytes of one token's K or V of one head.
inline constexpr quarrel_uint kv_row_bytes(quarrel_uint type, quarrel_uint head_dim) {
  return kv_head_bytes(type, head_dim, kKVTileTokens) / kKVTileTokens;
}

// A good kConstantPartition: the fewest rounds whose K and V outweigh a partition's queries and
// partial sums (12 bytes per element and query head) by 20 to 1.
inline constexpr quarrel_uint attention_partition(quarrel_uint k_type, quarrel_uint v_type,
                                                  quarrel_uint head_dim, quarrel_uint group) {
  return (20 * 12 * group * head_dim /
              (kv_row_bytes(k_type, head_dim) + kv_row_bytes(v_type, head_dim)) +
          kAttentionRound - 1) /
         kAttentionRound * kAttentionRound;
}

// A good kConstantRound: the whole partition where K or V has scales and the scores fit into 16 KB,
// as sums that are carried from round to round take registers and time.
inline constexpr quarrel_uint attention_round(quarrel_uint k_type, quarrel_uint v_type,
                                              quarrel_uint group, quarrel_uint partition) {
  const bool has_scales = kv_has_scales(k_type) || kv_has_scales(v_type);
  const bool fits = (group + 3) / 4 * partition * 16 <= 16384;
  return has_scales && fits ? partition : quarrel_uint(kAttentionRound);
}
