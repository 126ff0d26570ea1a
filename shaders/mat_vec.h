// Products of a few rows of x with all rows of a weight: what the kernels for decoded tokens share.
// A simdgroup works off kRows rows of W for up to kTokensPerPass rows of x.
//
// Which lane multiplies which columns, and in which order a lane and then the simdgroup adds,
// follow from n_cols alone: other tokens, their number and kTokensPerPass cannot change a token's
// bits. Pipelines for different kTokensPerPass agree only where the compiler may not reassociate:
// compile with Metal's safe math mode.
#pragma once
#include "linear.h"
#include "weight_words.h"

constant uint kTokensPerPass [[function_constant(kLinearTokensPerPass)]];

constant constexpr uint kRows = uint(kLinearDecodeRows) / uint(kLinearSimdgroups);
constant constexpr uint kMaxTokens = kLinearMaxTokensPerPass;
static_assert(kRows == 4, "written out for four rows");

#define UNROLL _Pragma("clang loop unroll(full)")
// Literal bounds, so that sums become registers before kTokensPerPass is known. `n`, at least 1, is
// the same in the whole threadgroup.
#define EACH_TOKEN(t, n) \
  UNROLL for (uint t = 0; t < kMaxTokens; ++t) if (t == 0 || (t < kTokensPerPass && t < n))

#define EACH_ROW(r) UNROLL for (uint r = 0; r < kRows; ++r)

// What a lane adds up: a token's sums for every row.
struct Sums {
  float4 of[kMaxTokens];
};

// Where the rows of W begin that a simdgroup works off.
template <typename Block>
struct Rows {
  device const Block* of[kRows];
};

// The tokens of a pass. Where fewer are left the last one stands in for the others, whose sums are
// dropped: branches would have lanes wait for each token's x by itself.
struct Pass {
  device const float* x;
  ulong start[kMaxTokens];  // where a token's row of x begins
  uint n_tokens;            // with those
};

METAL_FUNC float dot4(float4 a, float4 b, float sum) {
  return fma(a.w, b.w, fma(a.z, b.z, fma(a.y, b.y, fma(a.x, b.x, sum))));
}

METAL_FUNC float dot8(thread const WeightStep& w, float4 first, float4 second, float sum = 0.0f) {
  return dot4(w.second, second, dot4(w.first, first, sum));
}

METAL_FUNC float sum8(float4 a, float4 b) {
  return ((a.x + a.y) + (a.z + a.w)) + ((b.x + b.y) + (b.z + b.w));
}

template <typename Block>
METAL_FUNC void add_slice(thread Sums& sums, thread const Pass& pass,
                          thread const Rows<Block>& rows, uint slice) {
  Slice<Block> w[kRows] = {load_slice(rows.of[0], slice), load_slice(rows.of[1], slice),
                           load_slice(rows.of[2], slice), load_slice(rows.of[3], slice)};
  UNROLL for (uint step = 0; step < Slice<Block>::kSteps; ++step) {
    const uint column = Slice<Block>::column(slice, step);
    WeightStep q[kRows] = {w[0].weights(step), w[1].weights(step), w[2].weights(step),
                           w[3].weights(step)};
    const float4 factors =
        float4(w[0].factor(step), w[1].factor(step), w[2].factor(step), w[3].factor(step));
    const float4 offsets =
        float4(w[0].offset(step), w[1].offset(step), w[2].offset(step), w[3].offset(step));
    EACH_TOKEN(t, pass.n_tokens) {
      device const float* x = pass.x + pass.start[t] + column;
      const float4 first = *(device const float4*)x;
      const float4 second = *(device const float4*)(x + Slice<Block>::kGap);
      const float4 products = float4(dot8(q[0], first, second), dot8(q[1], first, second),
                                     dot8(q[2], first, second), dot8(q[3], first, second));
      float4 sum = fma(factors, products, sums.of[t]);
      if (Slice<Block>::kHasOffset) sum = fma(offsets, float4(sum8(first, second)), sum);
      sums.of[t] = sum;
    }
  }
}

// A slice of each row, as it lies in memory.
template <typename Block>
struct RowWords {
  Words<Block> of[kRows];
};

template <typename Block>
METAL_FUNC RowWords<Block> load_rows(thread const Rows<Block>& rows, uint block, uint place) {
  return {{load_words(rows.of[0] + block, place), load_words(rows.of[1] + block, place),
           load_words(rows.of[2] + block, place), load_words(rows.of[3] + block, place)}};
}

// The same, unpacked.
template <typename Block>
struct RowSlices {
  Slice<Block> of[kRows];
};

template <typename Block>
METAL_FUNC RowSlices<Block> unpacked_rows(thread const RowWords<Block>& words, uint place) {
  return {{unpacked(words.of[0], place), unpacked(words.of[1], place), unpacked(words.of[2], place),
           unpacked(words.of[3], place)}};
}

template <typename Block>
METAL_FUNC void copy(thread RowWords<Block>& to, thread const RowWords<Block>& from) {
  EACH_ROW(r) {
    UNROLL for (uint i = 0; i < Words<Block>::kCount; ++i) to.of[r].at[i] = from.of[r].at[i];
  }
}

// The columns of x that a slice is multiplied with.
template <typename Block>
struct Columns {
  float4 first[Slice<Block>::kSteps];
  float4 second[Slice<Block>::kSteps];
};

template <typename Block>
METAL_FUNC void load_columns(thread Columns<Block>& columns, thread const Pass& pass, uint block,
                             uint place) {
  UNROLL for (uint step = 0; step < Slice<Block>::kSteps; ++step) {
    device const float* x =
        pass.x + pass.start[0] + block * Block::kElements + Slice<Block>::column(place, step);
    columns.first[step] = *(device const float4*)x;
    columns.second[step] = *(device const float4*)(x + Slice<Block>::gap(place));
  }
}

// add_slice() for words: steps of a group share a factor, and a single token's columns come
// `early`, so that they are on their way while weights are unpacked.
template <typename Block>
METAL_FUNC void add_row_slices(thread Sums& sums, thread const Pass& pass,
                               thread const RowSlices<Block>& slices, uint block, uint place,
                               thread const Columns<Block>& early) {
  typedef Slice<Block> S;
  thread const S* w = slices.of;
  UNROLL for (uint group = 0; group < S::kSteps; group += S::kShared) {
    float4 products[kMaxTokens];
    float totals[kMaxTokens];
    EACH_TOKEN(t, pass.n_tokens) {
      products[t] = float4(0.0f);
      totals[t] = 0.0f;
    }
    UNROLL for (uint step = group; step < group + S::kShared; ++step) {
      const uint column = block * Block::kElements + S::column(place, step);
      WeightStep q[kRows] = {w[0].weights(step), w[1].weights(step), w[2].weights(step),
                             w[3].weights(step)};
      EACH_TOKEN(t, pass.n_tokens) {
        device const float* x = pass.x + pass.start[t] + column;
        const bool is_loaded = kTokensPerPass == 1;
        const float4 a = is_loaded ? early.first[step] : *(device const float4*)x;
        const float4 b =
            is_loaded ? early.second[step] : *(device const float4*)(x + S::gap(place));
        const float4 sum = products[t];
        products[t] = float4(dot8(q[0], a, b, sum.x), dot8(q[1], a, b, sum.y),
                             dot8(q[2], a, b, sum.z), dot8(q[3], a, b, sum.w));
        if (S::kHasOffset) totals[t] += sum8(a, b);
      }
    }
    const float4 factors =
        float4(w[0].factor(group), w[1].factor(group), w[2].factor(group), w[3].factor(group));
    const float4 offsets =
        float4(w[0].offset(group), w[1].offset(group), w[2].offset(group), w[3].offset(group));
    EACH_TOKEN(t, pass.n_tokens) {
      float4 sum = fma(factors, products[t], sums.of[t]);
      if (S::kHasOffset) sum = fma(offsets, float4(totals[t]), sum);
      sums.of[t] = sum;
    }
  }
}

// How a lane comes to all of its slices: in the order of the row, or from block to block.
template <typename Block, bool kHasWords>
struct Walk {
  METAL_FUNC static void add_slices(thread Sums& sums, thread const Pass& pass,
                                    thread const Rows<Block>& rows, uint lane, uint n_cols) {
    const uint n_slices = n_cols / Slice<Block>::kElements;
    for (uint slice = lane; slice < n_slices; slice += 32) add_slice(sums, pass, rows, slice);
  }
};

template <typename Block>
struct Walk<Block, true> {
  typedef Slice<Block> S;
  // Blocks that the simdgroup works off at a time.
  enum : uint { kRound = 32 * S::kElements / Block::kElements };

  METAL_FUNC static void add_slices(thread Sums& sums, thread const Pass& pass,
                                    thread const Rows<Block>& rows, uint lane, uint n_cols) {
    const uint n_blocks = n_cols / Block::kElements, place = lane % 8;
    const uint block = lane / (Block::kElements / S::kElements);
    if (S::kIsFenced) {
      add_fenced(sums, pass, rows, block, place, n_blocks);
    } else {
      add_pairs(sums, pass, rows, block, place, n_blocks);
    }
  }

  METAL_FUNC static void add(thread Sums& sums, thread const Pass& pass,
                             thread const RowSlices<Block>& slices, uint block, uint place) {
    Columns<Block> columns;
    if (kTokensPerPass == 1) load_columns(columns, pass, block, place);
    add_row_slices(sums, pass, slices, block, place, columns);
  }

  METAL_FUNC static void add(thread Sums& sums, thread const Pass& pass,
                             thread const Rows<Block>& rows, uint block, uint place) {
    const RowWords<Block> words = load_rows(rows, block, place);
    const RowSlices<Block> slices = unpacked_rows(words, place);
    add(sums, pass, slices, block, place);
  }

  // Each round is asked for while the one before it is multiplied. Without the barrier a compiler
  // may move a load to where its result is used, and lanes would wait for memory in every round.
  METAL_FUNC static void add_fenced(thread Sums& sums, thread const Pass& pass,
                                    thread const Rows<Block>& rows, uint block, uint place,
                                    uint n_blocks) {
    const uint n_rounds = n_blocks / kRound;
    if (n_rounds > 0) {
      RowWords<Block> words = load_rows(rows, block, place);
      for (uint i = 1; i <= n_rounds; ++i) {
        const RowSlices<Block> slices = unpacked_rows(words, place);
        const RowWords<Block> ahead = load_rows(rows, i < n_rounds ? block + kRound : block, place);
        simdgroup_barrier(mem_flags::mem_none);
        copy(words, ahead);
        add(sums, pass, slices, block, place);
        block += kRound;
      }
    }
    if (block < n_blocks) add(sums, pass, rows, block, place);
  }

  // Two rounds at a time, so that a lane has two blocks of every row under way and shares what it
  // spends on addresses.
  METAL_FUNC static void add_pairs(thread Sums& sums, thread const Pass& pass,
                                   thread const Rows<Block>& rows, uint block, uint place,
                                   uint n_blocks) {
    Columns<Block> columns;
    if (block + kRound < n_blocks) {
      RowWords<Block> words = load_rows(rows, block, place);
      RowWords<Block> second = load_rows(rows, block + kRound, place);
      for (; block + kRound < n_blocks; block += 2 * kRound) {
        const uint next = block + 3 * kRound < n_blocks ? block + 2 * kRound : block;
        const RowWords<Block> ahead = load_rows(rows, next, place);
        const RowWords<Block> second_ahead = load_rows(rows, next + kRound, place);
        if (kTokensPerPass == 1) load_columns(columns, pass, block, place);
        const RowSlices<Block> slices = unpacked_rows(words, place);
        add_row_slices(sums, pass, slices, block, place, columns);
        if (kTokensPerPass == 1) load_columns(columns, pass, block + kRound, place);
        const RowSlices<Block> second_slices = unpacked_rows(second, place);
        add_row_slices(sums, pass, second_slices, block + kRound, place, columns);
        copy(words, ahead);
        copy(second, second_ahead);
      }
    }
    if (block < n_blocks) add(sums, pass, rows, block, place);
  }
};

// Rows of plain numbers that slices do not divide.
template <typename Block>
METAL_FUNC void add_elements(thread Sums& sums, thread const Pass& pass,
                             thread const Rows<Block>& rows, uint lane, uint n_cols) {
  for (uint column = lane; column < n_cols; column += 32) {
    EACH_TOKEN(t, pass.n_tokens) {
      const float x = pass.x[pass.start[t] + column];
      const float4 w = float4(plain_element(rows.of[0], column), plain_element(rows.of[1], column),
                              plain_element(rows.of[2], column), plain_element(rows.of[3], column));
      sums.of[t] = fma(w, float4(x), sums.of[t]);
    }
  }
}

// Adds four values across the simdgroup in a fixed tree; lane i returns the sum of value i % 4.
METAL_FUNC float sum_rows(float4 values, uint lane) {
  const bool odd = (lane & 1) != 0, upper = (lane & 2) != 0;
  const float2 kept = odd ? values.yw : values.xz;
  const float2 pairs = kept + simd_shuffle_xor(odd ? values.xz : values.yw, 1);
  float sum = (upper ? pairs.y : pairs.x) + simd_shuffle_xor(upper ? pairs.x : pairs.y, 2);
  sum += simd_shuffle_xor(sum, 4);
  sum += simd_shuffle_xor(sum, 8);
  return sum + simd_shuffle_xor(sum, 16);
}

// The sums of kRows rows of W, from first_row on, for every token of a pass; lane i gets those of
// row first_row + i % kRows. A row beyond the last is read as the last one.
template <typename Block>
METAL_FUNC void multiply_rows(thread float* results, thread const Pass& pass,
                              device const Block* weight, uint first_row, uint n_rows, uint n_cols,
                              uint lane) {
  const uint row_blocks = n_cols / Block::kElements;
  Rows<Block> rows;
  EACH_ROW(r) rows.of[r] = weight + ulong(min(first_row + r, n_rows - 1)) * row_blocks;
  Sums sums = {};
  if (Block::kElements > 1 || n_cols % Slice<Block>::kElements == 0) {
    Walk<Block, (Words<Block>::kCount > 0)>::add_slices(sums, pass, rows, lane, n_cols);
  } else {
    add_elements(sums, pass, rows, lane, n_cols);
  }
  EACH_TOKEN(t, pass.n_tokens) results[t] = sum_rows(sums.of[t], lane);
}

METAL_FUNC void begin_pass(thread Pass& pass, device const float* x, device const uint* tokens,
                           uint first_token, uint n_tokens, uint n_cols) {
  pass.x = x;
  pass.n_tokens = kTokensPerPass;
  const uint last = n_tokens - first_token - 1;
  EACH_TOKEN(t, pass.n_tokens) {
    const uint place = t == 0 ? 0 : min(t, last);
    pass.start[t] = ulong(tokens[first_token + place]) * n_cols;
  }
}
