#include "cpu/kernels/attention_tiles.h"

#include "cpu/kernels/kv_element.h"
#include "cpu/kernels/packed_weights.h"

namespace quarrel::cpu::QUARREL_ISA {
namespace {

constexpr std::size_t kGroup = 4;  // rows that share a load of K or V
constexpr std::size_t kParts = 4;  // registers of a value's dimensions

// The elements of one head from a position on, up to the end of its tile.
template <KVElement kElement>
const typename Element<kElement>::Type* tile_at(const KVStep& step, const std::byte* base,
                                                std::size_t position) {
  const KVView& view = step.args.view;
  const auto block = static_cast<std::size_t>(step.args.block_table[position / view.block_size]);
  return reinterpret_cast<const typename Element<kElement>::Type*>(base) +
         ((block * view.n_kv_heads + step.kv_head) * view.block_size +
          position % view.block_size / kKVTile * kKVTile) *
             view.head_dim;
}

template <KVElement kElement>
struct StepTiles {
  const typename Element<kElement>::Type* tile[kStepTiles];
};

// The tiles of a step. A tile that is not wanted may have no block; another stands in for it.
template <KVElement kElement>
StepTiles<kElement> tiles_of(const KVStep& step, const std::byte* base) {
  StepTiles<kElement> tiles;
  for (std::size_t i = 0; i < kStepTiles; ++i) {
    const std::size_t first = step.start + i * kKVTile;
    const bool is_wanted = step.wants(first, first + kKVTile);
    tiles.tile[i] = tile_at<kElement>(step, base, is_wanted ? first : step.wanted());
  }
  return tiles;
}

// What will be read next. Few rows leave the reading bound by memory, and a tile is too short for
// the hardware to run ahead in.
template <KVElement kElement>
struct Ahead {
  StepTiles<kElement> tiles;

  // Call number `turn` of as many as there are dimensions.
  void prefetch(std::size_t turn) const {
    if constexpr (kElement != KVElement::F32) {  // expanded tiles are in cache
      const std::size_t line = turn / 2 * (64 / sizeof(typename Element<kElement>::Type));
      __builtin_prefetch(tiles.tile[turn % 2] + line);
      __builtin_prefetch(tiles.tile[turn % 2 + 2] + line);
    }
  }
};

template <KVElement kElement>
Ahead<kElement> ahead_of_score(const KVStep& step) {
  return {tiles_of<kElement>(step, step.args.view.v)};
}

template <KVElement kElement>
Ahead<kElement> ahead_of_accumulate(const KVStep& step) {
  const std::size_t next = step.next();
  if (next >= step.span.end) return {tiles_of<kElement>(step, step.args.view.k)};
  return {tiles_of<kElement>({step.args, step.kv_head, step.span, next}, step.args.view.k)};
}

// The tiles of a step as float32, for when many rows read them.
template <KVElement kElement>
StepTiles<KVElement::F32> expand(const KVStep& step, const std::byte* base, float* to) {
  const StepTiles<kElement> from = tiles_of<kElement>(step, base);
  const std::size_t n = step.args.view.head_dim * kKVTile;
  StepTiles<KVElement::F32> tiles;
  for (std::size_t i = 0; i < kStepTiles; ++i, to += n) {
    tiles.tile[i] = to;
    for (std::size_t e = 0; e < n; e += kLanes)
      store(to + e, Element<kElement>::load16(from.tile[i] + e));
  }
  return tiles;
}

template <KVElement kElement, int kRows>
void score_rows(const StepTiles<kElement>& k, const Ahead<kElement>& ahead, std::size_t head_dim,
                const float* q, float* scores) {
  F32x16 sums[kRows][kStepTiles];
  QUARREL_UNROLL
  for (int r = 0; r < kRows; ++r) QUARREL_UNROLL
  for (std::size_t i = 0; i < kStepTiles; ++i) sums[r][i] = broadcast(0.0f);
  for (std::size_t d = 0; d < head_dim; ++d) {
    ahead.prefetch(d);
    F32x16 keys[kStepTiles];
    QUARREL_UNROLL
    for (std::size_t i = 0; i < kStepTiles; ++i)
      keys[i] = Element<kElement>::load16(k.tile[i] + d * kKVTile);
    QUARREL_UNROLL
    for (int r = 0; r < kRows; ++r) {
      const F32x16 in = broadcast(q[static_cast<std::size_t>(r) * head_dim + d]);
      QUARREL_UNROLL
      for (std::size_t i = 0; i < kStepTiles; ++i) sums[r][i] = fma(keys[i], in, sums[r][i]);
    }
  }
  for (int r = 0; r < kRows; ++r)
    for (std::size_t i = 0; i < kStepTiles; ++i)
      store(scores + static_cast<std::size_t>(r) * kAttentionPositions + i * kLanes, sums[r][i]);
}

template <KVElement kElement>
void score_all(const StepTiles<kElement>& k, const Ahead<kElement>& ahead, std::size_t head_dim,
               std::size_t n_rows, const float* q, float* scores) {
  for (std::size_t r = 0; r < n_rows; r += kGroup) {
    const float* rows = q + r * head_dim;
    float* to = scores + r * kAttentionPositions;
    switch (n_rows - r) {
      case 1:
        score_rows<kElement, 1>(k, ahead, head_dim, rows, to);
        break;
      case 2:
        score_rows<kElement, 2>(k, ahead, head_dim, rows, to);
        break;
      case 3:
        score_rows<kElement, 3>(k, ahead, head_dim, rows, to);
        break;
      default:
        score_rows<kElement, kGroup>(k, ahead, head_dim, rows, to);
        break;
    }
  }
}

template <KVElement kElement>
void score_element(const KVStep& step, std::size_t n_rows, const float* q, float* scores,
                   float* expanded) {
  const std::size_t head_dim = step.args.view.head_dim;
  if (kElement != KVElement::F32 && n_rows > kGroup) {
    const auto tiles = expand<kElement>(step, step.args.view.k, expanded);
    score_all(tiles, {tiles}, head_dim, n_rows, q, scores);
  } else {
    score_all(tiles_of<kElement>(step, step.args.view.k), ahead_of_score<kElement>(step), head_dim,
              n_rows, q, scores);
  }
}

// out[row, d...] += weights[row, position] v[position, d...] for 16 * kWidth dimensions.
template <KVElement kElement, int kRows, std::size_t kWidth>
void accumulate_part(const KVStep& step, const StepTiles<kElement>& v, const Ahead<kElement>& ahead,
                     std::size_t d, const float* weights, float* out) {
  const std::size_t head_dim = step.args.view.head_dim;
  F32x16 sums[kRows][kWidth];
  QUARREL_UNROLL
  for (int r = 0; r < kRows; ++r) QUARREL_UNROLL
  for (std::size_t i = 0; i < kWidth; ++i)
    sums[r][i] = load(out + static_cast<std::size_t>(r) * head_dim + d + i * kLanes);
  for (int which = 0; which < 2; ++which) {
    const KVStep::Run run = step.run(which);
    for (std::size_t at = run.begin; at < run.end; ++at) {
      const auto* from = v.tile[at / kKVTile] + at % kKVTile * head_dim + d;
      ahead.prefetch(d + at);
      F32x16 values[kWidth];
      QUARREL_UNROLL
      for (std::size_t i = 0; i < kWidth; ++i)
        values[i] = Element<kElement>::load16(from + i * kLanes);
      QUARREL_UNROLL
      for (int r = 0; r < kRows; ++r) {
        const F32x16 weight =
            broadcast(weights[static_cast<std::size_t>(r) * kAttentionPositions + at]);
        QUARREL_UNROLL
        for (std::size_t i = 0; i < kWidth; ++i) sums[r][i] = fma(values[i], weight, sums[r][i]);
      }
    }
  }
  QUARREL_UNROLL
  for (int r = 0; r < kRows; ++r) QUARREL_UNROLL
  for (std::size_t i = 0; i < kWidth; ++i)
    store(out + static_cast<std::size_t>(r) * head_dim + d + i * kLanes, sums[r][i]);
}

template <KVElement kElement, int kRows>
void accumulate_rows(const KVStep& step, const StepTiles<kElement>& v, const Ahead<kElement>& ahead,
                     const float* weights, float* out) {
  std::size_t d = 0;
  for (; d + kParts * kLanes <= step.args.view.head_dim; d += kParts * kLanes)
    accumulate_part<kElement, kRows, kParts>(step, v, ahead, d, weights, out);
  for (; d < step.args.view.head_dim; d += kLanes)
    accumulate_part<kElement, kRows, 1>(step, v, ahead, d, weights, out);
}

template <KVElement kElement>
void accumulate_all(const KVStep& step, const StepTiles<kElement>& v, const Ahead<kElement>& ahead,
                    std::size_t n_rows, const float* weights, float* out) {
  for (std::size_t r = 0; r < n_rows; r += kGroup) {
    const float* from = weights + r * kAttentionPositions;
    float* to = out + r * step.args.view.head_dim;
    switch (n_rows - r) {
      case 1:
        accumulate_rows<kElement, 1>(step, v, ahead, from, to);
        break;
      case 2:
        accumulate_rows<kElement, 2>(step, v, ahead, from, to);
        break;
      case 3:
        accumulate_rows<kElement, 3>(step, v, ahead, from, to);
        break;
      default:
        accumulate_rows<kElement, kGroup>(step, v, ahead, from, to);
        break;
    }
  }
}

template <KVElement kElement>
void accumulate_element(const KVStep& step, std::size_t n_rows, const float* weights, float* out,
                        float* expanded) {
  if (kElement != KVElement::F32 && n_rows > kGroup) {
    const auto tiles = expand<kElement>(step, step.args.view.v, expanded);
    accumulate_all(step, tiles, {tiles}, n_rows, weights, out);
  } else {
    accumulate_all(step, tiles_of<kElement>(step, step.args.view.v),
                   ahead_of_accumulate<kElement>(step), n_rows, weights, out);
  }
}

}  // namespace

void score(const KVStep& step, std::size_t n_rows, const float* q, float* scores, float* expanded) {
  if (step.args.view.k_element == KVElement::F32)
    return score_element<KVElement::F32>(step, n_rows, q, scores, expanded);
  score_element<KVElement::F16>(step, n_rows, q, scores, expanded);
}

void accumulate(const KVStep& step, std::size_t n_rows, const float* weights, float* out,
                float* expanded) {
  if (step.args.view.v_element == KVElement::F32)
    return accumulate_element<KVElement::F32>(step, n_rows, weights, out, expanded);
  accumulate_element<KVElement::F16>(step, n_rows, weights, out, expanded);
}

}  // namespace quarrel::cpu::QUARREL_ISA
