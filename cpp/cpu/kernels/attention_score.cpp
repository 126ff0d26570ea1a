// q K: scores of 64 cache positions.
#include "cpu/kernels/attention_tiles.h"
#include "cpu/kernels/kv_element.h"

namespace quarrel::cpu::QUARREL_ISA {
namespace {

// A tile of 16 tokens of K.
struct KTile {
  const std::byte* data;
  const std::uint16_t* scales;  // [n_groups, 16] where quantised
};
struct KTiles {
  KTile tile[kStepTiles];
};

// The tile that begins with a token.
template <KVElement kElement>
KTile tile_of(const KVView& view, std::size_t token) {
  const std::byte* data = view.k + token * kv_token_bytes(kElement, view.head_dim);
  const std::size_t n = kv_number_bytes(kElement, view.head_dim) * kv_tile(view.block_size);
  return {data, reinterpret_cast<const std::uint16_t*>(data + n)};
}

template <KVElement kElement>
KTiles tiles_of(const KVStep& step) {
  KTiles tiles;
  for (std::size_t i = 0; i < kStepTiles; ++i)
    tiles.tile[i] = tile_of<kElement>(step.args.view, step.tokens.unit[2 * i]);
  return tiles;
}

template <KVElement kElement>
void expand_tile(const KTile& from, std::size_t head_dim, float* to) {
  F32x16 scale = broadcast(1.0f);
  for (std::size_t d = 0; d < head_dim; d += 2, to += 2 * kLanes) {
    F32x16 two[2];
    load_pair<kElement>(from.data, d, two);
    if constexpr (is_quantized(kElement)) {
      if (d % kKVGroup == 0) scale = load_f16(from.scales + d / kKVGroup * kLanes);
      two[0] = mul(two[0], scale);
      two[1] = mul(two[1], scale);
    }
    store(to, two[0]);
    store(to + kLanes, two[1]);
  }
}

// 8 tokens into one half of a tile of 16.
template <KVElement kElement>
void expand_half(const KTile& from, std::size_t head_dim, float* to) {
  constexpr std::size_t kHalf = kKVUnit * sizeof(float);
  F32x16 scale = broadcast(1.0f);
  for (std::size_t d = 0; d < head_dim; d += 2, to += 2 * kLanes) {
    F32x16 both = Element<kElement>::load16(from.data, d * kKVUnit);
    if constexpr (is_quantized(kElement)) {
      if (d % kKVGroup == 0) {
        std::uint16_t twice[kLanes];
        const std::uint16_t* scales = from.scales + d / kKVGroup * kKVUnit;
        __builtin_memcpy(twice, scales, sizeof twice / 2);
        __builtin_memcpy(twice + kKVUnit, scales, sizeof twice / 2);
        scale = load_f16(twice);
      }
      both = mul(both, scale);
    }
    float lanes[kLanes];
    store(lanes, both);
    __builtin_memcpy(to, lanes, kHalf);
    __builtin_memcpy(to + kLanes, lanes + kKVUnit, kHalf);
  }
}

// The tiles of a step as float32.
template <KVElement kElement>
KTiles expand(const KVStep& step, float* to) {
  const KVView& view = step.args.view;
  const bool whole = kv_tile(view.block_size) == kLanes;
  KTiles tiles;
  for (std::size_t i = 0; i < kStepTiles; ++i, to += view.head_dim * kLanes) {
    tiles.tile[i] = {reinterpret_cast<const std::byte*>(to), nullptr};
    const KTile first = tile_of<kElement>(view, step.tokens.unit[2 * i]);
    if (whole) {
      expand_tile<kElement>(first, view.head_dim, to);
    } else {
      expand_half<kElement>(first, view.head_dim, to);
      expand_half<kElement>(tile_of<kElement>(view, step.tokens.unit[2 * i + 1]), view.head_dim,
                            to + kKVUnit);
    }
  }
  return tiles;
}

template <KVElement kElement, int kRows>
void score_rows(const KTiles& k, const Ahead& ahead, std::size_t head_dim, const float* q,
                float* scores) {
  F32x16 sums[kRows][kStepTiles];
  QUARREL_UNROLL
  for (int r = 0; r < kRows; ++r) QUARREL_UNROLL
  for (std::size_t i = 0; i < kStepTiles; ++i) sums[r][i] = broadcast(0.0f);
  F32x16 scales[kStepTiles];
  for (std::size_t d = 0; d < head_dim; d += 2) {
    F32x16 keys[kStepTiles][2];
    if constexpr (is_quantized(kElement)) {
      if (d % kKVGroup == 0) {
        QUARREL_UNROLL
        for (std::size_t i = 0; i < kStepTiles; ++i)
          scales[i] = load_f16(k.tile[i].scales + d / kKVGroup * kLanes);
      }
    }
    QUARREL_UNROLL
    for (std::size_t i = 0; i < kStepTiles; ++i) {
      load_pair<kElement>(k.tile[i].data, d, keys[i]);
      if constexpr (is_quantized(kElement)) {
        keys[i][0] = mul(keys[i][0], scales[i]);
        keys[i][1] = mul(keys[i][1], scales[i]);
      }
    }
    QUARREL_UNROLL
    for (std::size_t half = 0; half < 2; ++half) {
      ahead.prefetch(d + half);
      QUARREL_UNROLL
      for (int r = 0; r < kRows; ++r) {
        const F32x16 in = broadcast(q[static_cast<std::size_t>(r) * head_dim + d + half]);
        QUARREL_UNROLL
        for (std::size_t i = 0; i < kStepTiles; ++i)
          sums[r][i] = fma(keys[i][half], in, sums[r][i]);
      }
    }
  }
  for (int r = 0; r < kRows; ++r)
    for (std::size_t i = 0; i < kStepTiles; ++i)
      store(scores + static_cast<std::size_t>(r) * kAttentionPositions + i * kLanes, sums[r][i]);
}

template <KVElement kElement>
void score_all(const KTiles& k, const Ahead& ahead, std::size_t head_dim, std::size_t n_rows,
               const float* q, float* scores) {
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

// Many rows pay for expanding K once; tiles of 8 tokens do not fill a register.
template <KVElement kElement>
void score_element(const KVStep& step, std::size_t n_rows, const float* q, float* scores,
                   float* expanded) {
  const KVView& view = step.args.view;
  const bool many = kElement != KVElement::F32 && n_rows > kGroup;
  if (many || kv_tile(view.block_size) != kLanes)
    return score_all<KVElement::F32>(expand<kElement>(step, expanded), {}, view.head_dim, n_rows, q,
                                     scores);
  score_all<kElement>(tiles_of<kElement>(step), ahead_of(view, step.tokens, view.v, view.v_element),
                      view.head_dim, n_rows, q, scores);
}

}  // namespace

void score(const KVStep& step, std::size_t n_rows, const float* q, float* scores, float* expanded) {
  switch (step.args.view.k_element) {
    case KVElement::F32:
      return score_element<KVElement::F32>(step, n_rows, q, scores, expanded);
    case KVElement::F16:
      return score_element<KVElement::F16>(step, n_rows, q, scores, expanded);
    case KVElement::BF16:
      return score_element<KVElement::BF16>(step, n_rows, q, scores, expanded);
    case KVElement::Q8_0:
      return score_element<KVElement::Q8_0>(step, n_rows, q, scores, expanded);
    case KVElement::Q4_0:
      return score_element<KVElement::Q4_0>(step, n_rows, q, scores, expanded);
  }
}

}  // namespace quarrel::cpu::QUARREL_ISA
