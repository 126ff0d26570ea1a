// How K and V lie in the cache's memory.
//
// A block holds, head after head, the tiles of its tokens. A tile of K is transposed, so that a
// register holds one dimension of 16 tokens and a score needs no reduction across lanes; a tile of
// V has a row per token:
//
//   K [n_blocks, n_kv_heads, block_size / tile, head_dim, tile]
//   V [n_blocks, n_kv_heads, block_size / tile, tile, head_dim]
//
// Quantised vectors are stored after a Walsh-Hadamard transform (kernels/hadamard.h). Numbers are
// followed, tile by tile, by a float16 scale for each 32 dimensions of a
// token (the last may be 16): K [n_groups, tile], V [tile, n_groups]. A value is number * scale,
// which float32 holds exactly.
//
//   Q8_0  a signed byte
//   Q4_0  number + 8 in half a byte. K: byte [i, token] has dimension 2 i in its low half and
//         2 i + 1 in its high one, so that no two tokens share a byte. V: byte j of 16 dimensions
//         has dimension j in its low half and j + 8 in its high one.
//
// Functions are static: each instruction set keeps copies of its own.
#pragma once

#include <cstddef>

namespace quarrel::cpu {

enum class KVElement { F32, F16, BF16, Q8_0, Q4_0 };

inline constexpr std::size_t kKVLanes = 16;  // head sizes are multiples of it
inline constexpr std::size_t kKVGroup = 32;  // dimensions that share a scale
inline constexpr std::size_t kKVMaxQuantizedHead = 512;
inline constexpr std::size_t kKVUnit = 8;  // block sizes are multiples of it

// Tokens of a tile.
static constexpr std::size_t kv_tile(std::size_t block_size) {
  return block_size % kKVLanes == 0 ? kKVLanes : kKVUnit;
}
static constexpr bool is_quantized(KVElement element) {
  return element == KVElement::Q8_0 || element == KVElement::Q4_0;
}
// Scales of a token in one head.
static constexpr std::size_t kv_groups(std::size_t head_dim) {
  return (head_dim + kKVGroup - 1) / kKVGroup;
}
// Bytes of n numbers, n even.
static constexpr std::size_t kv_number_bytes(KVElement element, std::size_t n) {
  switch (element) {
    case KVElement::F32:
      return 4 * n;
    case KVElement::F16:
    case KVElement::BF16:
      return 2 * n;
    case KVElement::Q8_0:
      return n;
    case KVElement::Q4_0:
      return n / 2;
  }
  return 0;
}
// Bytes of a token's K or V in one head.
static constexpr std::size_t kv_token_bytes(KVElement element, std::size_t head_dim) {
  return kv_number_bytes(element, head_dim) + (is_quantized(element) ? 2 * kv_groups(head_dim) : 0);
}

}  // namespace quarrel::cpu
