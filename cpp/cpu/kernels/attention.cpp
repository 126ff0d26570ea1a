// Flash-style attention over block tables (Dao et al., "FlashAttention", 2022; Kwon et al.,
// "Efficient Memory Management for Large Language Model Serving with PagedAttention", 2023).
//
// The cache is walked in steps of 64 positions that start at multiples of 64, with a running
// maximum and sum per query (Milakov and Gimelshein, "Online normalizer calculation for softmax",
// 2018). What a query computes depends on absolute positions alone: not on the tokens beside it,
// nor on where its blocks lie.
#include "cpu/kernels/kernel_functions.h"
#include "cpu/kernels/kv_element.h"

namespace quarrel::cpu::QUARREL_ISA {
namespace {

constexpr std::size_t kLanes = 16;
constexpr std::size_t kTiles = kAttentionPositions / kKVTile;
constexpr std::size_t kGroup = 4;  // rows that share a load of K or V
constexpr float kMinusInfinity = -__builtin_inff();

static_assert(kKVTile == kLanes);

// The rows of one work item: the query heads of one KV head, for some tokens.
struct Rows {
  std::size_t n;
  std::size_t per_token;        // heads
  const std::int32_t* positions;  // [tokens]
  float* q;       // [n, head_dim], scaled
  float* out;     // [n, head_dim], weighted sum so far
  float* scores;  // [n, kAttentionPositions], then probabilities
  float* maxima;  // [n]
  float* sums;    // [n]

  std::size_t position(std::size_t row) const {
    return static_cast<std::size_t>(positions[row / per_token]);
  }
};

std::size_t first_visible(std::size_t position, std::size_t window) {
  return window != 0 && position + 1 > window ? position + 1 - window : 0;
}

// The elements of one head's K tile or V row at an absolute position.
template <KVElement kElement>
const typename Element<kElement>::Type* head_block(const AttentionArgs& a, const std::byte* base,
                                                   std::size_t kv_head, std::size_t position) {
  const KVView& view = a.view;
  const auto block = static_cast<std::size_t>(a.block_table[position / view.block_size]);
  return reinterpret_cast<const typename Element<kElement>::Type*>(base) +
         ((block * view.n_kv_heads + kv_head) * view.block_size +
          position % view.block_size / kKVTile * kKVTile) *
             view.head_dim;
}

template <KVElement kElement, int kRows>
void score_rows(const typename Element<kElement>::Type* k, std::size_t head_dim, const float* q,
                float* scores) {
  F32x16 sums[kRows];
  for (int r = 0; r < kRows; ++r) sums[r] = broadcast(0.0f);
  for (std::size_t d = 0; d < head_dim; ++d) {
    const F32x16 keys = Element<kElement>::load16(k + d * kKVTile);
    for (int r = 0; r < kRows; ++r)
      sums[r] = fma(keys, broadcast(q[static_cast<std::size_t>(r) * head_dim + d]), sums[r]);
  }
  for (int r = 0; r < kRows; ++r)
    store(scores + static_cast<std::size_t>(r) * kAttentionPositions, sums[r]);
}

// scores[row, tile] = q k for positions of one tile
template <KVElement kElement>
void score_tile(const AttentionArgs& a, std::size_t kv_head, std::size_t position,
                const Rows& rows, std::size_t tile) {
  const auto* k = head_block<kElement>(a, a.view.k, kv_head, position);
  const std::size_t head_dim = a.view.head_dim;
  for (std::size_t r = 0; r < rows.n; r += kGroup) {
    const float* q = rows.q + r * head_dim;
    float* scores = rows.scores + r * kAttentionPositions + tile * kKVTile;
    switch (rows.n - r) {
      case 1: score_rows<kElement, 1>(k, head_dim, q, scores); break;
      case 2: score_rows<kElement, 2>(k, head_dim, q, scores); break;
      case 3: score_rows<kElement, 3>(k, head_dim, q, scores); break;
      default: score_rows<kElement, kGroup>(k, head_dim, q, scores); break;
    }
  }
}

int clamp_lane(std::size_t position, std::size_t tile_start) {
  if (position <= tile_start) return 0;
  const std::size_t lane = position - tile_start;
  return static_cast<int>(lane < kLanes ? lane : kLanes);
}

// Scores to probabilities relative to the running maximum; rescales what was summed before.
void softmax_row(const AttentionArgs& a, const Rows& rows, std::size_t row, std::size_t start) {
  float* scores = rows.scores + row * kAttentionPositions;
  const std::size_t position = rows.position(row);
  const std::size_t begin = first_visible(position, a.window);
  F32x16 s[kTiles];
  F32x16 highest = broadcast(kMinusInfinity);
  for (std::size_t i = 0; i < kTiles; ++i) {
    const std::size_t tile_start = start + i * kKVTile;
    s[i] = load(scores + i * kKVTile);
    if (a.softcap != 0.0f)
      s[i] = mul(tanh(div(s[i], broadcast(a.softcap))), broadcast(a.softcap));
    s[i] = select_range(clamp_lane(begin, tile_start), clamp_lane(position + 1, tile_start), s[i],
                        broadcast(kMinusInfinity));
    highest = max(highest, s[i]);
  }
  const float step_maximum = reduce_max(highest);
  if (step_maximum == kMinusInfinity) {  // nothing visible: leave the row as it is
    for (std::size_t i = 0; i < kTiles; ++i) store(scores + i * kKVTile, broadcast(0.0f));
    return;
  }
  const float old_maximum = rows.maxima[row];
  const float maximum = old_maximum > step_maximum ? old_maximum : step_maximum;
  F32x16 total = broadcast(0.0f);
  for (std::size_t i = 0; i < kTiles; ++i) {
    s[i] = exp(sub(s[i], broadcast(maximum)));
    store(scores + i * kKVTile, s[i]);
    total = add(total, s[i]);
  }
  if (maximum != old_maximum) {
    float correction[kLanes];
    store(correction, exp(broadcast(old_maximum - maximum)));
    rows.sums[row] *= correction[0];
    float* out = rows.out + row * a.view.head_dim;
    for (std::size_t d = 0; d < a.view.head_dim; d += kLanes)
      store(out + d, mul(load(out + d), broadcast(correction[0])));
    rows.maxima[row] = maximum;
  }
  rows.sums[row] += reduce_add(total);
}

// out[row] += p[row, position] v[position] for kRows rows and 16 * kParts dimensions from d on.
template <KVElement kElement, int kRows, int kParts>
void accumulate(const AttentionArgs& a, std::size_t kv_head, std::size_t begin, std::size_t end,
                std::size_t start, std::size_t d, const float* p, float* out) {
  using E = Element<kElement>;
  const std::size_t head_dim = a.view.head_dim;
  F32x16 sums[kRows][kParts];
  for (int r = 0; r < kRows; ++r)
    for (int i = 0; i < kParts; ++i)
      sums[r][i] = load(out + static_cast<std::size_t>(r) * head_dim + d +
                        static_cast<std::size_t>(i) * kLanes);
  for (std::size_t position = begin; position < end;) {
    const auto* v = head_block<kElement>(a, a.view.v, kv_head, position) +
                    position % kKVTile * head_dim + d;
    std::size_t tile_end = (position / kKVTile + 1) * kKVTile;
    if (tile_end > end) tile_end = end;
    for (; position < tile_end; ++position, v += head_dim) {
      F32x16 values[kParts];
      for (int i = 0; i < kParts; ++i)
        values[i] = E::load16(v + static_cast<std::size_t>(i) * kLanes);
      for (int r = 0; r < kRows; ++r) {
        const F32x16 weight =
            broadcast(p[static_cast<std::size_t>(r) * kAttentionPositions + position - start]);
        for (int i = 0; i < kParts; ++i) sums[r][i] = fma(values[i], weight, sums[r][i]);
      }
    }
  }
  for (int r = 0; r < kRows; ++r)
    for (int i = 0; i < kParts; ++i)
      store(out + static_cast<std::size_t>(r) * head_dim + d + static_cast<std::size_t>(i) * kLanes,
            sums[r][i]);
}

template <KVElement kElement, int kRows>
void accumulate_rows(const AttentionArgs& a, std::size_t kv_head, std::size_t begin,
                     std::size_t end, std::size_t start, const float* p, float* out) {
  constexpr int kParts = 4;
  std::size_t d = 0;
  for (; d + kParts * kLanes <= a.view.head_dim; d += kParts * kLanes)
    accumulate<kElement, kRows, kParts>(a, kv_head, begin, end, start, d, p, out);
  for (; d < a.view.head_dim; d += kLanes)
    accumulate<kElement, kRows, 1>(a, kv_head, begin, end, start, d, p, out);
}

template <KVElement kElement>
void accumulate_all(const AttentionArgs& a, std::size_t kv_head, std::size_t begin,
                    std::size_t end, std::size_t start, const Rows& rows) {
  for (std::size_t r = 0; r < rows.n; r += kGroup) {
    const float* p = rows.scores + r * kAttentionPositions;
    float* out = rows.out + r * a.view.head_dim;
    switch (rows.n - r) {
      case 1: accumulate_rows<kElement, 1>(a, kv_head, begin, end, start, p, out); break;
      case 2: accumulate_rows<kElement, 2>(a, kv_head, begin, end, start, p, out); break;
      case 3: accumulate_rows<kElement, 3>(a, kv_head, begin, end, start, p, out); break;
      default: accumulate_rows<kElement, kGroup>(a, kv_head, begin, end, start, p, out); break;
    }
  }
}

Rows prepare(const AttentionArgs& a, std::size_t kv_head, std::size_t first_token,
             std::size_t n_tokens, float* scratch) {
  const std::size_t head_dim = a.view.head_dim;
  const std::size_t per_token = a.n_heads / a.view.n_kv_heads;
  Rows rows{n_tokens * per_token,
            per_token,
            a.positions + first_token,
            scratch,
            scratch + kAttentionRows * head_dim,
            scratch + kAttentionRows * 2 * head_dim,
            nullptr,
            nullptr};
  rows.maxima = rows.scores + kAttentionRows * kAttentionPositions;
  rows.sums = rows.maxima + kAttentionRows;
  for (std::size_t r = 0; r < rows.n; ++r) {
    const std::size_t head = kv_head * per_token + r % per_token;
    const float* q = a.q + ((first_token + r / per_token) * a.n_heads + head) * head_dim;
    for (std::size_t d = 0; d < head_dim; d += kLanes) {
      store(rows.q + r * head_dim + d, mul(load(q + d), broadcast(a.scale)));
      store(rows.out + r * head_dim + d, broadcast(0.0f));
    }
    rows.maxima[r] = kMinusInfinity;
    rows.sums[r] = 0.0f;
  }
  return rows;
}

void finish(const AttentionArgs& a, std::size_t kv_head, std::size_t first_token,
            const Rows& rows) {
  const std::size_t head_dim = a.view.head_dim;
  for (std::size_t r = 0; r < rows.n; ++r) {
    const std::size_t head = kv_head * rows.per_token + r % rows.per_token;
    float* y = a.y + ((first_token + r / rows.per_token) * a.n_heads + head) * head_dim;
    for (std::size_t d = 0; d < head_dim; d += kLanes)
      store(y + d, div(load(rows.out + r * head_dim + d), broadcast(rows.sums[r])));
  }
}

}  // namespace

void attention(const AttentionArgs& a, std::size_t kv_head, std::size_t first_token,
               std::size_t n_tokens, float* scratch) {
  const Rows rows = prepare(a, kv_head, first_token, n_tokens, scratch);
  const std::size_t begin = first_visible(rows.position(0), a.window);
  const std::size_t end = rows.position(rows.n - 1) + 1;
  for (std::size_t start = begin / kAttentionPositions * kAttentionPositions; start < end;
       start += kAttentionPositions) {
    for (std::size_t tile = 0; tile < kTiles; ++tile) {
      const std::size_t position = start + tile * kKVTile;
      // Tiles that no row sees may have no block; the mask covers what stays unset here.
      if (position >= end || position + kKVTile <= begin) continue;
      if (a.view.k_element == KVElement::F32) {
        score_tile<KVElement::F32>(a, kv_head, position, rows, tile);
      } else {
        score_tile<KVElement::F16>(a, kv_head, position, rows, tile);
      }
    }
    for (std::size_t r = 0; r < rows.n; ++r) softmax_row(a, rows, r, start);
    const std::size_t from = begin > start ? begin : start;
    const std::size_t to =
        end < start + kAttentionPositions ? end : start + kAttentionPositions;
    if (a.view.v_element == KVElement::F32) {
      accumulate_all<KVElement::F32>(a, kv_head, from, to, start, rows);
    } else {
      accumulate_all<KVElement::F16>(a, kv_head, from, to, start, rows);
    }
  }
  finish(a, kv_head, first_token, rows);
}

}  // namespace quarrel::cpu::QUARREL_ISA
