// Matrix products of quantised weights and 16-bit activations.
//
// Inside a sub-block (16 or 32 inputs with one scale) products are added as integers, exactly, so
// their order is free; across sub-blocks every output adds floats in the order of its inputs.
// However many tokens there are, and whatever the instruction set, the bits are the same.
#include "cpu/kernels/kernel_functions.h"
#include "cpu/kernels/packed_weights.h"

namespace quarrel::cpu::QUARREL_ISA {
namespace {

constexpr std::size_t kLanes = 16;

// Weights are asked for this many bytes ahead, into the second-level cache: the first has too few
// lines in flight to hide memory's latency. Left to itself the processor loses its way between the
// scales and the quants of short tiles.
constexpr std::size_t kPrefetch = 12288;

template <std::size_t kBytes>
inline void prefetch(const std::uint8_t* p) {
  QUARREL_UNROLL
  for (std::size_t line = 0; line < kBytes; line += 64)
    __builtin_prefetch(p + kPrefetch + line, 0, 2);
}

// kTokens rows of quantised activations; see packed_format.h.
struct Rows {
  const std::byte* base;
  std::size_t stride;
  std::size_t n_in;

  const std::int8_t* planes(int t, std::size_t b) const {
    return reinterpret_cast<const std::int8_t*>(row(t) + b * 2 * kSubBlock);
  }
  template <int kSubs>
  const std::int32_t* sum(int t, std::size_t b, int sub) const {
    const std::size_t at =
        kSubs == 1 ? quantized_sums32_offset(n_in) + 4 * b : quantized_sums16_offset(n_in) + 8 * b;
    return reinterpret_cast<const std::int32_t*>(row(t) + at) + sub;
  }
  float scale(int t) const {
    return *reinterpret_cast<const float*>(row(t) + quantized_scale_offset(n_in));
  }
  const std::byte* row(int t) const { return base + static_cast<std::size_t>(t) * stride; }
};

// What of a format the inner loop depends on.
template <int kSubsValue, bool kMinValue, int kOffsetValue, bool kWideValue>
struct Shape {
  static constexpr int kSubs = kSubsValue;
  static constexpr bool kMin = kMinValue;
  static constexpr int kOffset = kOffsetValue;
  static constexpr bool kWide = kWideValue;
};
template <DType kDType>
struct ShapeOf {
  static constexpr PackedGeometry kGeometry = packed_geometry(kDType);
  using Type = Shape<subs_of(kGeometry.scales), has_minimum(kGeometry.scales),
                     kGeometry.offset_shift, kGeometry.bits == 8>;
};

// sums[t] = integer products of one sub-block.
template <class S, int kTokens>
inline void dot(const U8x64* w, const Rows& x, std::size_t b, int sub, I32x16* sums) {
  constexpr int kQuads = 8 / S::kSubs;
  const int from = sub * kQuads;
  if constexpr (kTokens <= 2) {  // two short chains hide the latency
    I32x16 low[kTokens];
    QUARREL_UNROLL
    for (int t = 0; t < kTokens; ++t) sums[t] = low[t] = zero_i32();
    QUARREL_UNROLL
    for (int g = from; g < from + kQuads; ++g) QUARREL_UNROLL
    for (int t = 0; t < kTokens; ++t) {
      const std::int8_t* planes = x.planes(t, b) + 4 * g;
      sums[t] = dot4<S::kWide>(sums[t], w[g], planes);
      low[t] = dot4<S::kWide>(low[t], w[g], planes + kSubBlock);
    }
    QUARREL_UNROLL
    for (int t = 0; t < kTokens; ++t) sums[t] = add(shift_left<8>(sums[t]), low[t]);
  } else {
    QUARREL_UNROLL
    for (int t = 0; t < kTokens; ++t) sums[t] = zero_i32();
    QUARREL_UNROLL
    for (int g = from; g < from + kQuads; ++g) QUARREL_UNROLL
    for (int t = 0; t < kTokens; ++t)
      sums[t] = dot4<S::kWide>(sums[t], w[g], x.planes(t, b) + 4 * g);
    QUARREL_UNROLL
    for (int t = 0; t < kTokens; ++t) sums[t] = shift_left<8>(sums[t]);
    QUARREL_UNROLL
    for (int g = from; g < from + kQuads; ++g) QUARREL_UNROLL
    for (int t = 0; t < kTokens; ++t)
      sums[t] = dot4<S::kWide>(sums[t], w[g], x.planes(t, b) + kSubBlock + 4 * g);
  }
}

// y[t] += products of inputs [32 b, 32 b + 32)
template <class S, int kTokens>
inline void add_block(const U8x64* w, const F32x16* scale, const F32x16* minimum, const Rows& x,
                      std::size_t b, F32x16* y) {
  QUARREL_UNROLL
  for (int sub = 0; sub < S::kSubs; ++sub) {
    I32x16 sums[kTokens];
    dot<S, kTokens>(w, x, b, sub, sums);
    QUARREL_UNROLL
    for (int t = 0; t < kTokens; ++t) {
      if constexpr (S::kOffset > 0)
        sums[t] = cpu::QUARREL_ISA::sub(
            sums[t], shift_left<S::kOffset>(broadcast_i32(x.template sum<S::kSubs>(t, b, sub))));
      y[t] = fma(to_float(sums[t]), scale[sub], y[t]);
      if constexpr (S::kMin)
        y[t] =
            fma(to_float(broadcast_i32(x.template sum<S::kSubs>(t, b, sub))), minimum[sub], y[t]);
    }
  }
}

// One tile's 16 outputs, where they go.
struct Outputs {
  float* y;
  std::size_t stride;
  std::size_t n;  // of the 16
  F32x16 bias;
};

template <int kTokens>
inline void finish(const Outputs& out, const Rows& x, const F32x16* sums) {
  for (int t = 0; t < kTokens; ++t) {
    const F32x16 y = fma(sums[t], broadcast(x.scale(t)), out.bias);
    float* to = out.y + static_cast<std::size_t>(t) * out.stride;
    if (out.n == kLanes) {
      store(to, y);
    } else {
      store_partial(to, y, static_cast<int>(out.n));
    }
  }
}

// Bytes of scales per 32 inputs.
constexpr std::size_t scale_step(ScaleLayout scales) {
  return packed_scale_bytes(scales) * kSubBlock / packed_block_inputs(scales);
}

// Few tokens: weights are read once and expanded in registers.
template <DType kDType, int kTokens>
void multiply_packed(const std::uint8_t* tile, const Rows& x, const Outputs& out) {
  constexpr PackedGeometry kGeometry = packed_geometry(kDType);
  constexpr std::size_t kStep = static_cast<std::size_t>(kGeometry.bits) * kPlaneBytes;
  constexpr std::size_t kScaleStep = scale_step(kGeometry.scales);
  const std::uint8_t* planes = tile + packed_quants_offset(kGeometry.scales, x.n_in);
  F32x16 y[kTokens];
  for (int t = 0; t < kTokens; ++t) y[t] = broadcast(0.0f);
  for (std::size_t b = 0; b < x.n_in / kSubBlock; ++b, planes += kStep) {
    prefetch<kStep>(planes);
    prefetch<64>(tile + b * kScaleStep);
    U8x64 w[8];
    unpack<kGeometry.bits>(planes, w);
    F32x16 scale[2];
    F32x16 minimum[2];
    load_scales<kGeometry.scales>(tile, b, scale, minimum);
    add_block<typename ShapeOf<kDType>::Type, kTokens>(w, scale, minimum, x, b, y);
  }
  finish<kTokens>(out, x, y);
}

// An expanded tile: per 32 inputs 8 quads of bytes, then the scales and the minimums.
constexpr std::size_t kExpandedQuads = 8 * kPlaneBytes;
template <class S>
constexpr std::size_t kExpandedBytes =
    kExpandedQuads + sizeof(float) * kLanes * static_cast<std::size_t>(S::kSubs * (1 + S::kMin));

template <DType kDType>
void expand(const std::uint8_t* tile, std::size_t n_in, std::uint8_t* to) {
  using S = typename ShapeOf<kDType>::Type;
  constexpr PackedGeometry kGeometry = packed_geometry(kDType);
  constexpr std::size_t kStep = static_cast<std::size_t>(kGeometry.bits) * kPlaneBytes;
  const std::uint8_t* planes = tile + packed_quants_offset(kGeometry.scales, n_in);
  for (std::size_t b = 0; b < n_in / kSubBlock; ++b, planes += kStep) {
    prefetch<kStep>(planes);
    prefetch<64>(tile + b * scale_step(kGeometry.scales));
    U8x64 w[8];
    unpack<kGeometry.bits>(planes, w);
    QUARREL_UNROLL
    for (std::size_t g = 0; g < 8; ++g) store_u8(to + g * kPlaneBytes, w[g]);
    F32x16 scale[2];
    F32x16 minimum[2];
    load_scales<kGeometry.scales>(tile, b, scale, minimum);
    float* floats = reinterpret_cast<float*>(to + kExpandedQuads);
    for (int s = 0; s < S::kSubs; ++s, floats += kLanes) store(floats, scale[s]);
    if constexpr (S::kMin)
      for (int s = 0; s < S::kSubs; ++s, floats += kLanes) store(floats, minimum[s]);
    to += kExpandedBytes<S>;
  }
}

template <class S, int kTokens>
void multiply_expanded(const std::uint8_t* tile, const Rows& x, const Outputs& out) {
  F32x16 y[kTokens];
  for (int t = 0; t < kTokens; ++t) y[t] = broadcast(0.0f);
  for (std::size_t b = 0; b < x.n_in / kSubBlock; ++b, tile += kExpandedBytes<S>) {
    U8x64 w[8];
    unpack<8>(tile, w);
    const float* floats = reinterpret_cast<const float*>(tile + kExpandedQuads);
    F32x16 scale[2];
    F32x16 minimum[2];
    QUARREL_UNROLL
    for (int s = 0; s < S::kSubs; ++s) {
      scale[s] = load(floats + s * static_cast<int>(kLanes));
      if constexpr (S::kMin) minimum[s] = load(floats + (S::kSubs + s) * static_cast<int>(kLanes));
    }
    add_block<S, kTokens>(w, scale, minimum, x, b, y);
  }
  finish<kTokens>(out, x, y);
}

template <int kTokens>
void advance(Rows& x, Outputs& out) {
  x.base += kTokens * x.stride;
  out.y += kTokens * out.stride;
}

template <DType kDType>
void multiply_tile(const std::uint8_t* tile, Rows x, Outputs out, std::size_t n_tokens,
                   std::uint8_t* scratch) {
  using S = typename ShapeOf<kDType>::Type;
  if (n_tokens > 4) {
    expand<kDType>(tile, x.n_in, scratch);
    for (; n_tokens >= kRegisterTokens; n_tokens -= kRegisterTokens) {
      multiply_expanded<S, kRegisterTokens>(scratch, x, out);
      advance<kRegisterTokens>(x, out);
    }
    for (; n_tokens >= 2; n_tokens -= 2) {
      multiply_expanded<S, 2>(scratch, x, out);
      advance<2>(x, out);
    }
    if (n_tokens > 0) multiply_expanded<S, 1>(scratch, x, out);
    return;
  }
  for (; n_tokens >= 2; n_tokens -= 2) {
    multiply_packed<kDType, 2>(tile, x, out);
    advance<2>(x, out);
  }
  if (n_tokens > 0) multiply_packed<kDType, 1>(tile, x, out);
}

template <DType kDType>
void multiply(const LinearArgs& a, const LinearItem& item, std::byte* scratch) {
  const std::size_t row_stride = quantized_row_bytes(a.n_in);
  const std::byte* tile = a.packed + item.tile * packed_tile_bytes(kDType, a.n_in);
  const Rows x{a.x_quantized + item.first_token * row_stride, row_stride, a.n_in};
  const std::size_t at = item.tile * kTileOutputs;
  const std::size_t n = a.n_out - at < kLanes ? a.n_out - at : kLanes;
  F32x16 bias = broadcast(0.0f);
  if (a.bias != nullptr)
    bias = n == kLanes ? load(a.bias + at) : load_partial(a.bias + at, static_cast<int>(n));
  const Outputs out{a.y + item.first_token * a.n_out + at, a.n_out, n, bias};
  multiply_tile<kDType>(reinterpret_cast<const std::uint8_t*>(tile), x, out, item.n_tokens,
                        reinterpret_cast<std::uint8_t*>(scratch));
}

}  // namespace

void linear(const LinearArgs& a, const LinearItem& item, std::byte* scratch) {
  switch (a.dtype) {
    case DType::Q4_0:
      return multiply<DType::Q4_0>(a, item, scratch);
    case DType::Q4_1:
      return multiply<DType::Q4_1>(a, item, scratch);
    case DType::Q5_0:
      return multiply<DType::Q5_0>(a, item, scratch);
    case DType::Q5_1:
      return multiply<DType::Q5_1>(a, item, scratch);
    case DType::Q8_0:
      return multiply<DType::Q8_0>(a, item, scratch);
    case DType::Q2_K:
      return multiply<DType::Q2_K>(a, item, scratch);
    case DType::Q3_K:
      return multiply<DType::Q3_K>(a, item, scratch);
    case DType::Q4_K:
      return multiply<DType::Q4_K>(a, item, scratch);
    case DType::Q5_K:
      return multiply<DType::Q5_K>(a, item, scratch);
    case DType::Q6_K:
      return multiply<DType::Q6_K>(a, item, scratch);
    case DType::F32:
    case DType::F16:
    case DType::BF16:
      return linear_float(a, item);
  }
}

}  // namespace quarrel::cpu::QUARREL_ISA
