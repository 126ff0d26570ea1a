// The chained hash of full blocks: a block's hash covers every token before it too.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "cache/kv_cache.h"

namespace quarrel {

using BlockHash = std::uint64_t;

// The finaliser of SplitMix64 (Steele, Lea and Flood, "Fast Splittable Pseudorandom Number
// Generators", 2014).
inline std::uint64_t mix_bits(std::uint64_t x) {
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return x ^ (x >> 31);
}

// Finds candidates only: whoever looks up compares parents and tokens, so a collision costs a
// comparison and can never hand out another text's K and V.
inline BlockHash chain_hash(BlockHash parent, std::span<const TokenId> tokens) {
  BlockHash hash = mix_bits(parent + 0x9e3779b97f4a7c15u);
  for (const TokenId token : tokens)
    hash = mix_bits(hash ^ (static_cast<std::uint32_t>(token) + 0x9e3779b97f4a7c15u));
  return hash;
}

}  // namespace quarrel
