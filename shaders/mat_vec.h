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

// The tokens of a pass.
struct Pass {
  device const float* x;
  ulong start[kMaxTokens];  // where a token's row of x begins
  uint n_tokens;
};

METAL_FUNC float dot4(float4 a, float4 b, float sum) {
  return fma(a.w, b.w, fma(a.z, b.z, fma(a.y, b.y, fma(a.x, b.x, sum))));
}

METAL_FUNC float dot8(thread const WeightStep& w, float4 first, float4 second) {
  return dot4(w.second, second, dot4(w.first, first, 0.0f));
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
METAL_FUNC RowWords<Block> load_rows(thread const Rows<Block>& rows, uint block, uint part) {
  return {{load_words(rows.of[0] + block, part), load_words(rows.of[1] + block, part),
           load_words(rows.of[2] + block, part), load_words(rows.of[3] + block, part)}};
}

// The columns of x that a slice is multiplied with.
template <typename Block>
struct Columns {
  float4 first[Slice<Block>::kSteps];
  float4 second[Slice<Block>::kSteps];
};

template <typename Block>
METAL_FUNC void load_columns(thread Columns<Block>& columns, thread const Pass& pass, uint block,
                             uint part) {
  UNROLL for (uint step = 0; step < Slice<Block>::kSteps; ++step) {
    device const float* x =
        pass.x + pass.start[0] + block * Block::kElements + Slice<Block>::column(part, step);
    columns.first[step] = *(device const float4*)x;
    columns.second[step] = *(device const float4*)(x + Slice<Block>::kGap);
  }
}

// dot8() of a step, added to the sum of those before it. Where the second four weights come so many
// times as large, steps do not share a factor: there is none before it.
template <typename S>
METAL_FUNC float add_dot8(thread const WeightStep& w, float4 first, float4 second, float sum) {
  constexpr uint times = S::kSecondTimes;
  static_assert(times == 1 || S::kShared == 1, "`sum` is left out");
  if (times == 1) return dot4(w.second, second, dot4(w.first, first, sum));
  return dot4(w.first, first, dot4(w.second, second, 0.0f) * (1.0f / float(times)));
}

// add_slice() for words: steps of a group share a factor, and a single token's columns come
// `early`, so that they are on their way while weights are unpacked.
template <typename Block>
METAL_FUNC void add_words(thread Sums& sums, thread const Pass& pass,
                          thread const RowWords<Block>& words, uint block, uint part,
                          thread const Columns<Block>& early) {
  typedef Slice<Block> S;
  S w[kRows] = {unpacked(words.of[0], part), unpacked(words.of[1], part),
                unpacked(words.of[2], part), unpacked(words.of[3], part)};
  UNROLL for (uint group = 0; group < S::kSteps; group += S::kShared) {
    float4 products[kMaxTokens];
    float totals[kMaxTokens];
    EACH_TOKEN(t, pass.n_tokens) {
      products[t] = float4(0.0f);
      totals[t] = 0.0f;
    }
    UNROLL for (uint step = group; step < group + S::kShared; ++step) {
      const uint column = block * Block::kElements + S::column(part, step);
      WeightStep q[kRows] = {w[0].weights(step), w[1].weights(step), w[2].weights(step),
                             w[3].weights(step)};
      EACH_TOKEN(t, pass.n_tokens) {
        device const float* x = pass.x + pass.start[t] + column;
        const bool is_loaded = kTokensPerPass == 1;
        const float4 a = is_loaded ? early.first[step] : *(device const float4*)x;
        const float4 b = is_loaded ? early.second[step] : *(device const float4*)(x + S::kGap);
        const float4 sum = products[t];
        products[t] = float4(add_dot8<S>(q[0], a, b, sum.x), add_dot8<S>(q[1], a, b, sum.y),
                             add_dot8<S>(q[2], a, b, sum.z), add_dot8<S>(q[3], a, b, sum.w));
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

// How a lane comes to all of its slices: in the order of the row, or part by part of its blocks.
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
  METAL_FUNC static void add_slices(thread Sums& sums, thread const Pass& pass,
                                    thread const Rows<Block>& rows, uint lane, uint n_cols) {
    constexpr uint n_parts = Block::kElements / Slice<Block>::kElements, round = 32 / n_parts;
    const uint n_blocks = n_cols / Block::kElements, part = lane % n_parts;
    uint block = lane / n_parts;
    Columns<Block> columns;
    if (kTokensPerPass > 1) {  // products enough to wait behind, and registers scarce
      for (; block < n_blocks; block += round) {
        const RowWords<Block> words = load_rows(rows, block, part);
        add_words(sums, pass, words, block, part, columns);
      }
    } else if (block < n_blocks) {
      RowWords<Block> words = load_rows(rows, block, part);
      for (; block < n_blocks; block += round) {
        const RowWords<Block> ahead =
            load_rows(rows, block + round < n_blocks ? block + round : block, part);
        load_columns(columns, pass, block, part);
        add_words(sums, pass, words, block, part, columns);
        EACH_ROW(r) {
          UNROLL for (uint i = 0; i < Words<Block>::kCount; ++i) {
            words.of[r].at[i] = ahead.of[r].at[i];
          }
        }
      }
    }
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
  pass.n_tokens = min(n_tokens - first_token, kTokensPerPass);
  EACH_TOKEN(t, pass.n_tokens) pass.start[t] = ulong(tokens[first_token + t]) * n_cols;
}
