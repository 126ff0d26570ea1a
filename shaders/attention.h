// What the kernels of attention and of the cache share.
#pragma once
#include "common.h"
#include "kv_layout.h"

constant uint kHeadDim [[function_constant(kConstantHeadDim)]];
constant uint kBlockSize [[function_constant(kConstantBlockSize)]];
constant uint kKType [[function_constant(kConstantKType)]];
constant uint kVType [[function_constant(kConstantVType)]];
constant uint kGroup [[function_constant(kConstantGroup)]];

// Eight elements of one token.
struct KVChunk {
  float4 lo;
  float4 hi;
};

// Stands for minus infinity, which fast math may assume away.
constant constexpr float kMasked = -1e30f;

// Of the eight positions from `base` on, a bit for each one that a query at `position` sees.
inline uint visible_tokens(uint base, uint position, uint window, uint sinks) {
  if (base > position) return 0;
  const uint causal = (1u << min(position - base + 1, 8u)) - 1;
  const uint begin = attention_begin(position, window);
  const uint outside = begin > base ? (1u << min(begin - base, 8u)) - 1 : 0;
  const uint pinned = sinks > base ? (1u << min(sinks - base, 8u)) - 1 : 0;
  return causal & (~outside | pinned);
}

// Whether a query at `position` sees any of the positions [base, base + n).
inline bool any_visible(uint base, uint n, uint position, uint window, uint sinks) {
  return base <= position && (base + n > attention_begin(position, window) || base < sinks);
}

// A score in units of log2(e), so that its weight is a power of two.
inline float capped(float score, float softcap) {
  if (softcap == 0.0f) return score;
  const float cap = softcap * M_LOG2E_F;
  return cap * precise::tanh(score / cap);
}
