// Flash-style attention over block tables (Dao et al., "FlashAttention", 2022; Kwon et al.,
// "Efficient Memory Management for Large Language Model Serving with PagedAttention", 2023), split
// over the cache (Dao et al., "Flash-Decoding for long-context inference", 2023).
//
// The cache is walked in steps of 64 positions that start at multiples of 64, with a running
// maximum and sum per query (Milakov and Gimelshein, "Online normalizer calculation for softmax",
// 2018). Partitions start at multiples of 512, are summed from nothing and join in ascending order.
// What a query computes depends on absolute positions alone: not on the tokens beside it, nor on
// where its blocks lie, nor on how many threads share the work.
#include "cpu/kernels/attention_tiles.h"
#include "cpu/kernels/hadamard.h"
#include "cpu/kernels/kernel_functions.h"

namespace quarrel::cpu::QUARREL_ISA {
namespace {

constexpr float kMinusInfinity = -__builtin_inff();

// Running sums of some rows.
struct Sums {
  float* out;     // [n, head_dim], weighted sum of values
  float* maxima;  // [n], of scores
  float* totals;  // [n], of weights
};

Sums sums_at(float* memory, std::size_t n_rows, std::size_t head_dim) {
  return {memory, memory + n_rows * head_dim, memory + n_rows * (head_dim + 1)};
}

// The rows of one work item: the query heads of one KV head, for some tokens.
struct Rows {
  std::size_t n;
  std::size_t per_token;          // heads
  const std::int32_t* positions;  // [tokens]
  float* q;                       // [n, head_dim], scaled
  float* scores;                  // [n, kAttentionPositions], then weights
  Sums sums;                      // of the partition at hand
  Sums joined;                    // of those before it
  float* expanded;                // K, then V, of a step as float32

  std::size_t position(std::size_t row) const {
    return static_cast<std::size_t>(positions[row / per_token]);
  }
};

int clamp_lane(std::size_t position, std::size_t tile_start) {
  if (position <= tile_start) return 0;
  const std::size_t lane = position - tile_start;
  return static_cast<int>(lane < kLanes ? lane : kLanes);
}

void scale_row(float* row, std::size_t n, float factor) {
  for (std::size_t d = 0; d < n; d += kLanes) store(row + d, mul(load(row + d), broadcast(factor)));
}

float exp_of(float x) {
  float lanes[kLanes];
  store(lanes, exp(broadcast(x)));
  return lanes[0];
}

// -infinity where a query at `position` does not see the tile's positions.
F32x16 masked(const AttentionArgs& a, std::size_t position, std::size_t tile_start, F32x16 scores) {
  const std::size_t begin = a.window != 0 && position >= a.window ? position + 1 - a.window : 0;
  F32x16 rest = broadcast(kMinusInfinity);
  if (tile_start < a.sinks && a.sinks < begin)
    rest = select_range(0, clamp_lane(a.sinks, tile_start), scores, rest);
  return select_range(clamp_lane(a.sinks < begin ? begin : 0, tile_start),
                      clamp_lane(position + 1, tile_start), scores, rest);
}

// Scores to weights relative to the running maximum; rescales what was summed before.
void softmax_row(const AttentionArgs& a, const Rows& rows, std::size_t row, std::size_t start) {
  float* scores = rows.scores + row * kAttentionPositions;
  const std::size_t position = rows.position(row);
  F32x16 s[kStepTiles];
  F32x16 highest = broadcast(kMinusInfinity);
  for (std::size_t i = 0; i < kStepTiles; ++i) {
    s[i] = load(scores + i * kLanes);
    if (a.softcap != 0.0f) s[i] = mul(tanh(div(s[i], broadcast(a.softcap))), broadcast(a.softcap));
    s[i] = masked(a, position, start + i * kLanes, s[i]);
    highest = max(highest, s[i]);
  }
  const float step_maximum = reduce_max(highest);
  if (step_maximum == kMinusInfinity) {  // nothing visible: leave the row as it is
    for (std::size_t i = 0; i < kStepTiles; ++i) store(scores + i * kLanes, broadcast(0.0f));
    return;
  }
  const float old_maximum = rows.sums.maxima[row];
  const float maximum = old_maximum > step_maximum ? old_maximum : step_maximum;
  F32x16 total = broadcast(0.0f);
  for (std::size_t i = 0; i < kStepTiles; ++i) {
    s[i] = exp(sub(s[i], broadcast(maximum)));
    store(scores + i * kLanes, s[i]);
    total = add(total, s[i]);
  }
  if (maximum != old_maximum) {
    const float correction = exp_of(old_maximum - maximum);
    rows.sums.totals[row] *= correction;
    scale_row(rows.sums.out + row * a.view.head_dim, a.view.head_dim, correction);
    rows.sums.maxima[row] = maximum;
  }
  rows.sums.totals[row] += reduce_add(total);
}

Rows prepare(const AttentionArgs& a, const AttentionItem& item, float* scratch) {
  const std::size_t head_dim = a.view.head_dim;
  const std::size_t per_token = a.n_heads / a.view.n_kv_heads;
  const std::size_t n = item.n_tokens * per_token;
  float* scores = scratch + kAttentionRows * head_dim;
  float* sums = scores + kAttentionRows * kAttentionPositions;
  float* joined = sums + attention_partial(kAttentionRows, head_dim);
  const Rows rows{n,
                  per_token,
                  a.positions + item.first_token,
                  scratch,
                  scores,
                  sums_at(sums, n, head_dim),
                  sums_at(joined, n, head_dim),
                  joined + attention_partial(kAttentionRows, head_dim)};
  for (std::size_t r = 0; r < n; ++r) {
    const std::size_t head = item.kv_head * per_token + r % per_token;
    const float* q = a.q + ((item.first_token + r / per_token) * a.n_heads + head) * head_dim;
    for (std::size_t d = 0; d < head_dim; d += kLanes)
      store(rows.q + r * head_dim + d, mul(load(q + d), broadcast(a.scale)));
    if (is_quantized(a.view.k_element)) inverse_hadamard(rows.q + r * head_dim, head_dim);
  }
  return rows;
}

void clear(const Sums& sums, std::size_t n_rows, std::size_t head_dim) {
  __builtin_memset(sums.out, 0, n_rows * head_dim * sizeof(float));
  for (std::size_t r = 0; r < n_rows; ++r) {
    sums.maxima[r] = kMinusInfinity;
    sums.totals[r] = 0.0f;
  }
}

// rows.sums <- the sums of one partition
void sum_partition(const AttentionArgs& a, const AttentionItem& item, const Rows& rows,
                   std::size_t partition) {
  const std::size_t from = partition * kAttentionPartition;
  const AttentionSpan span = attention_span(a, item).clipped(from, from + kAttentionPartition);
  clear(rows.sums, rows.n, a.view.head_dim);
  const std::size_t first = KVStep::first_from(span, from);
  KVStep step{a, span, first, tokens_of(a, item.kv_head, span, first), {}};
  for (std::size_t next; step.start < span.end; step.start = next, step.tokens = step.upcoming) {
    next = step.next();
    step.upcoming = next < span.end ? tokens_of(a, item.kv_head, span, next) : step.tokens;
    score(step, rows.n, rows.q, rows.scores, rows.expanded);
    for (std::size_t r = 0; r < rows.n; ++r) softmax_row(a, rows, r, step.start);
    accumulate(step, rows.n, rows.scores, rows.sums.out,
               rows.expanded + kAttentionPositions * a.view.head_dim);
  }
}

// Adds a later partition's sums to what is joined already.
void join(const Sums& to, const Sums& from, std::size_t n_rows, std::size_t head_dim) {
  for (std::size_t r = 0; r < n_rows; ++r) {
    if (from.maxima[r] == kMinusInfinity) continue;  // it sees nothing there
    float* out = to.out + r * head_dim;
    const float* in = from.out + r * head_dim;
    const float maximum = to.maxima[r] > from.maxima[r] ? to.maxima[r] : from.maxima[r];
    const float keep = exp_of(to.maxima[r] - maximum);
    const float gain = exp_of(from.maxima[r] - maximum);
    for (std::size_t d = 0; d < head_dim; d += kLanes)
      store(out + d, fma(load(in + d), broadcast(gain), mul(load(out + d), broadcast(keep))));
    to.totals[r] = __builtin_fmaf(from.totals[r], gain, to.totals[r] * keep);
    to.maxima[r] = maximum;
  }
}

void finish(const AttentionArgs& a, const AttentionItem& item, const Rows& rows) {
  const std::size_t head_dim = a.view.head_dim;
  for (std::size_t r = 0; r < rows.n; ++r) {
    const std::size_t head = item.kv_head * rows.per_token + r % rows.per_token;
    float* y = a.y + ((item.first_token + r / rows.per_token) * a.n_heads + head) * head_dim;
    for (std::size_t d = 0; d < head_dim; d += kLanes)
      store(y + d, div(load(rows.joined.out + r * head_dim + d), broadcast(rows.joined.totals[r])));
    if (is_quantized(a.view.v_element)) inverse_hadamard(y, head_dim);
  }
}

}  // namespace

void attention(const AttentionArgs& a, const AttentionItem& item, float* scratch) {
  const Rows rows = prepare(a, item, scratch);
  const AttentionPartitions partitions(attention_span(a, item));
  clear(rows.joined, rows.n, a.view.head_dim);
  for (std::size_t i = 0; i < partitions.n; ++i) {
    sum_partition(a, item, rows, partitions[i]);
    join(rows.joined, rows.sums, rows.n, a.view.head_dim);
  }
  finish(a, item, rows);
}

void attention_partition(const AttentionArgs& a, const AttentionItem& item, std::size_t partition,
                         float* partial, float* scratch) {
  Rows rows = prepare(a, item, scratch);
  rows.sums = sums_at(partial, rows.n, a.view.head_dim);
  sum_partition(a, item, rows, partition);
}

void attention_join(const AttentionArgs& a, const AttentionItem& item, std::size_t n_partitions,
                    const float* partials, float* scratch) {
  const std::size_t head_dim = a.view.head_dim;
  const Rows rows = prepare(a, item, scratch);
  clear(rows.joined, rows.n, head_dim);
  for (std::size_t p = 0; p < n_partitions; ++p)
    join(rows.joined,
         sums_at(const_cast<float*>(partials) + p * attention_partial(rows.n, head_dim), rows.n,
                 head_dim),
         rows.n, head_dim);
  finish(a, item, rows);
}

}  // namespace quarrel::cpu::QUARREL_ISA
