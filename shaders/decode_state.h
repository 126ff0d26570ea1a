// What the two ways of attention_decode share: lanes of floats (decode_lanes.h) and matrices of
// half (decode_matrices.h).
#pragma once
#include "attention.h"

constant uint kPartition [[function_constant(kConstantPartition)]];
constant uint kRound [[function_constant(kConstantRound)]];

// Literal bounds, so that arrays over heads become registers before kGroup is known.
#define EACH_HEAD(g)                                                                \
  _Pragma("clang loop unroll(full)") for (uint g = 0; g < uint(kAttentionMaxGroup); \
                                          ++g) if (g < kGroup)

// What a lane keeps per query head.
struct Scores {
  float v[kAttentionMaxGroup];
};

inline void mask_all(thread Scores& scores) {
#pragma unroll(8)
  for (uint g = 0; g < uint(kAttentionMaxGroup); ++g) scores.v[g] = kMasked;
}

// For types without scales: kLanes lanes read a token, and a simdgroup reads kSubsets tiles of
// eight tokens at a time.
constant uint kLanes = kHeadDim <= 64 ? 8 : kHeadDim <= 128 ? 16 : 32;
constant uint kSubsets = 32 / kLanes;

// Tokens that a simdgroup reads at once; those of steps go to simdgroups in turn.
constant uint kStepTokens = kSubsets * kKVTileTokens;

// Where scores of a token of a round stand, four heads to a place. With matrices every fourth token
// follows, and of two in four the halves of 32 tokens change places: so the rows of a matrix, each
// of two or four tokens, find theirs in different banks of memory.
constant bool kByMatrices = kv_has_scales(kKType) || kv_has_scales(kVType);
inline uint score_place(uint token) {
  if (!kByMatrices) return token;
  return token / 32 * 32 + token % 4 * 8 + (token / 4 % 8 ^ token % 4 / 2 * 4);
}
// From an even token's to the next one's.
enum ScoreShape : int { kNextScore = 8 };

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
  uint block_bytes;
};

// The run of the head in the block that holds a position.
inline device const uchar* head_run(thread const HeadCache& from, uint position) {
  return from.cache + ulong(uint(from.blocks[position / kBlockSize])) * from.block_bytes;
}

enum RoundShape : int { kRoundStep = 32 };  // tokens: what score_place() mixes, and simdgroups read

// Tokens of one round, and what a query sees of them.
struct Round {
  uint begin;  // position of the first token
  uint first;  // tokens [first, end) hold all that it sees; both are multiples of kRoundStep
  uint end;
  bool is_whole;  // it sees all of them
  uint position;
  uint window;
  uint sinks;
};

// The round at `begin`, of which the query sees something.
inline void make_round(thread Round& round, uint begin, uint position, uint window, uint sinks) {
  const uint seen = attention_begin(position, window);
  const uint last = seen < begin + kRound ? position : sinks - 1;
  round.begin = begin;
  round.first =
      !kByMatrices || sinks > begin || seen <= begin ? 0 : (seen - begin) / kRoundStep * kRoundStep;
  round.end = min(kRound, (last - begin) / kRoundStep * kRoundStep + kRoundStep);
  round.is_whole = seen <= begin + round.first && begin + round.end - 1 <= position;
  round.position = position;
  round.window = window;
  round.sinks = sinks;
}

inline bool is_visible(thread const Round& round, uint token, uint n) {
  return any_visible(round.begin + token, n, round.position, round.window, round.sinks);
}

// Of the eight tokens from `token` of the round on, a bit for each one that the query sees.
inline uint visible_bits(thread const Round& round, uint token) {
  return visible_tokens(round.begin + token, round.position, round.window, round.sinks);
}
