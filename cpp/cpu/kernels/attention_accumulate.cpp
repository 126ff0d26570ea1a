// Weights V: what 64 cache positions add to the outputs.
#include "cpu/kernels/attention_tiles.h"
#include "cpu/kernels/kv_element.h"

namespace quarrel::cpu::QUARREL_ISA {
namespace {

constexpr std::size_t kParts = 4;  // registers of a value's dimensions

// 8 tokens of V.
struct VRows {
  const std::byte* data;        // [8, head_dim]
  const std::uint16_t* scales;  // [8, n_groups] where quantised
};
struct StepRows {
  VRows unit[kStepUnits];
};

template <KVElement kElement>
StepRows rows_of(const KVStep& step) {
  const KVView& view = step.args.view;
  const std::size_t tile = kv_tile(view.block_size);
  const std::size_t row_bytes = kv_number_bytes(kElement, view.head_dim);
  const std::size_t token_bytes = kv_token_bytes(kElement, view.head_dim);
  StepRows rows;
  for (std::size_t u = 0; u < kStepUnits; ++u) {
    const std::size_t offset = step.tokens.unit[u] & (tile - 1);
    const std::byte* data = view.v + (step.tokens.unit[u] - offset) * token_bytes;
    rows.unit[u] = {data + offset * row_bytes,
                    reinterpret_cast<const std::uint16_t*>(data + tile * row_bytes) +
                        offset * kv_groups(view.head_dim)};
  }
  return rows;
}

// 16 * kWidth dimensions of a row from d on; kWidth > 1 only where d is a multiple of 32.
template <KVElement kElement, std::size_t kWidth>
void load_row(const VRows& rows, std::size_t row, std::size_t head_dim, std::size_t d,
              F32x16* values) {
  QUARREL_UNROLL
  for (std::size_t i = 0; i < kWidth; ++i)
    values[i] = Element<kElement>::load16(rows.data, row * head_dim + d + i * kLanes);
  if constexpr (is_quantized(kElement)) {
    const std::uint16_t* scales = rows.scales + row * kv_groups(head_dim) + d / kKVGroup;
    QUARREL_UNROLL
    for (std::size_t i = 0; i < kWidth; i += 2) {
      const F32x16 scale = broadcast_f16(scales + i / 2);
      values[i] = mul(values[i], scale);
      if (i + 1 < kWidth) values[i + 1] = mul(values[i + 1], scale);
    }
  }
}

// The rows of a step as float32.
template <KVElement kElement>
StepRows expand(const StepRows& from, std::size_t head_dim, float* to) {
  StepRows rows;
  for (std::size_t u = 0; u < kStepUnits; ++u) {
    rows.unit[u] = {reinterpret_cast<const std::byte*>(to), nullptr};
    for (std::size_t row = 0; row < kKVUnit; ++row)
      for (std::size_t d = 0; d < head_dim; d += kLanes, to += kLanes) {
        F32x16 values[1];
        load_row<kElement, 1>(from.unit[u], row, head_dim, d, values);
        store(to, values[0]);
      }
  }
  return rows;
}

// out[row, d...] += weights[row, position] v[position, d...] for 16 * kWidth dimensions.
template <KVElement kElement, int kRows, std::size_t kWidth>
void accumulate_part(const KVStep& step, const StepRows& v, const Ahead& ahead, std::size_t d,
                     const float* weights, float* out) {
  const std::size_t head_dim = step.args.view.head_dim;
  F32x16 sums[kRows][kWidth];
  QUARREL_UNROLL
  for (int r = 0; r < kRows; ++r) QUARREL_UNROLL
  for (std::size_t i = 0; i < kWidth; ++i)
    sums[r][i] = load(out + static_cast<std::size_t>(r) * head_dim + d + i * kLanes);
  for (int which = 0; which < 2; ++which) {
    const KVStep::Run run = step.run(which);
    for (std::size_t at = run.begin; at < run.end; ++at) {
      ahead.prefetch(d + at);
      F32x16 values[kWidth];
      load_row<kElement, kWidth>(v.unit[at / kKVUnit], at % kKVUnit, head_dim, d, values);
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
void accumulate_rows(const KVStep& step, const StepRows& v, const Ahead& ahead,
                     const float* weights, float* out) {
  std::size_t d = 0;
  for (; d + kParts * kLanes <= step.args.view.head_dim; d += kParts * kLanes)
    accumulate_part<kElement, kRows, kParts>(step, v, ahead, d, weights, out);
  for (; d < step.args.view.head_dim; d += kLanes)
    accumulate_part<kElement, kRows, 1>(step, v, ahead, d, weights, out);
}

template <KVElement kElement>
void accumulate_all(const KVStep& step, const StepRows& v, const Ahead& ahead, std::size_t n_rows,
                    const float* weights, float* out) {
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
  const KVView& view = step.args.view;
  const StepRows rows = rows_of<kElement>(step);
  if (kElement != KVElement::F32 && n_rows > kGroup)
    return accumulate_all<KVElement::F32>(step, expand<kElement>(rows, view.head_dim, expanded), {},
                                          n_rows, weights, out);
  accumulate_all<kElement>(step, rows, ahead_of(view, step.upcoming, view.k, view.k_element),
                           n_rows, weights, out);
}

}  // namespace

void accumulate(const KVStep& step, std::size_t n_rows, const float* weights, float* out,
                float* expanded) {
  switch (step.args.view.v_element) {
    case KVElement::F32:
      return accumulate_element<KVElement::F32>(step, n_rows, weights, out, expanded);
    case KVElement::F16:
      return accumulate_element<KVElement::F16>(step, n_rows, weights, out, expanded);
    case KVElement::BF16:
      return accumulate_element<KVElement::BF16>(step, n_rows, weights, out, expanded);
    case KVElement::Q8_0:
      return accumulate_element<KVElement::Q8_0>(step, n_rows, weights, out, expanded);
    case KVElement::Q4_0:
      return accumulate_element<KVElement::Q4_0>(step, n_rows, weights, out, expanded);
  }
}

}  // namespace quarrel::cpu::QUARREL_ISA
