#include "cpu/packing/pack.h"

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "cpu/packing/quants.h"

namespace quarrel::cpu {
namespace {

using Byte = std::uint8_t;

constexpr std::size_t kPlane = 64;  // bytes
constexpr std::size_t kQuads = 8;   // of a sub-block

template <class T>
void pack_floats(const Weight& weight, std::size_t first, std::size_t n_rows, Byte* out) {
  T* to = reinterpret_cast<T*>(out);
  for (std::size_t r = 0; r < kTileOutputs; ++r) {
    const auto* row = reinterpret_cast<const T*>(weight.data.data()) + (first + r) * weight.n_cols;
    for (std::size_t k = 0; k < weight.n_cols; ++k)
      to[k * kTileOutputs + r] = r < n_rows ? row[k] : T{};
  }
}

// Planes of kBits bits taken from bit kFrom of the quads' bytes.
template <int kBits, int kFrom>
Byte* pack_planes(const Byte (&quads)[kQuads][kPlane], Byte* to) {
  constexpr std::size_t kPerPlane = 8 / kBits;
  constexpr std::size_t kPlanes = kQuads / kPerPlane;
  for (std::size_t plane = 0; plane < kPlanes; ++plane, to += kPlane) {
    std::memset(to, 0, kPlane);
    for (std::size_t i = 0; i < kPerPlane; ++i) {
      // Nibbles pair quads 4 apart; smaller fields take neighbours.
      const Byte* quad = quads[kBits == 4 ? plane + i * kPlanes : plane * kPerPlane + i];
      for (std::size_t j = 0; j < kPlane; ++j)
        to[j] |= static_cast<Byte>((quad[j] >> kFrom & ((1 << kBits) - 1)) << (i * kBits));
    }
  }
  return to;
}

Byte* pack_quads(int bits, const Byte (&quads)[kQuads][kPlane], Byte* to) {
  switch (bits) {
    case 2:
      return pack_planes<2, 0>(quads, to);
    case 3:
      return pack_planes<1, 2>(quads, pack_planes<2, 0>(quads, to));
    case 4:
      return pack_planes<4, 0>(quads, to);
    case 5:
      return pack_planes<1, 4>(quads, pack_planes<4, 0>(quads, to));
    case 6:
      return pack_planes<2, 4>(quads, pack_planes<4, 0>(quads, to));
    default:
      return pack_planes<8, 0>(quads, to);
  }
}

void put_u16(Byte* to, std::size_t index, std::uint16_t value) {
  std::memcpy(to + 2 * index, &value, sizeof value);
}

// Output r's lane of a block's scales.
void pack_scales(ScaleLayout layout, const BlockParts& parts, std::size_t r, Byte* to) {
  put_u16(to, r, parts.d);
  const bool has_minimum = layout != ScaleLayout::Block && layout != ScaleLayout::Sub16;
  if (has_minimum) put_u16(to, kTileOutputs + r, parts.minimum);
  Byte* subs = to + (has_minimum ? 64 : 32) + r;
  if (layout == ScaleLayout::Sub32Min) {
    for (std::size_t i = 0; i < 8; ++i) {
      subs[i * kTileOutputs] = parts.scales[i];
      subs[(8 + i) * kTileOutputs] = parts.minimums[i];
    }
  } else if (layout == ScaleLayout::Sub16 || layout == ScaleLayout::Sub16Min) {
    for (std::size_t i = 0; i < 16; ++i) subs[i * kTileOutputs] = parts.scales[i];
  }
}

void pack_quants(const Weight& weight, std::size_t first, std::size_t n_rows, Byte* to) {
  const PackedGeometry geometry = packed_geometry(weight.dtype);
  const DTypeTraits& format = traits(weight.dtype);
  const std::size_t n_blocks = weight.n_cols / format.block_elements;
  const auto* rows =
      reinterpret_cast<const Byte*>(weight.data.data()) + first * n_blocks * format.block_bytes;
  Byte* quants = to + packed_quants_offset(geometry.scales, weight.n_cols);
  BlockParts parts[kTileOutputs];
  std::memset(parts, 0, sizeof parts);
  for (std::size_t b = 0; b < n_blocks; ++b) {
    for (std::size_t r = 0; r < n_rows; ++r)
      take_apart(weight.dtype, rows + (r * n_blocks + b) * format.block_bytes, parts[r]);
    for (std::size_t r = 0; r < kTileOutputs; ++r)
      pack_scales(geometry.scales, parts[r], r, to + b * packed_scale_bytes(geometry.scales));
    for (std::size_t from = 0; from < format.block_elements; from += kSubBlock) {
      Byte quads[kQuads][kPlane];
      for (std::size_t g = 0; g < kQuads; ++g)
        for (std::size_t r = 0; r < kTileOutputs; ++r)
          std::memcpy(quads[g] + 4 * r, parts[r].quants + from + 4 * g, 4);
      quants = pack_quads(geometry.bits, quads, quants);
    }
  }
}

}  // namespace

std::size_t packed_bytes(const Weight& weight) {
  return packed_tiles(weight.n_rows) * packed_tile_bytes(weight.dtype, weight.n_cols);
}

void pack_tile(const Weight& weight, std::size_t tile, std::byte* to) {
  const std::size_t first = tile * kTileOutputs;
  const std::size_t n_rows = std::min(kTileOutputs, weight.n_rows - first);
  auto* out = reinterpret_cast<Byte*>(to);
  if (is_quantized(weight.dtype)) {
    pack_quants(weight, first, n_rows, out);
  } else if (weight.dtype == DType::F32) {
    pack_floats<std::uint32_t>(weight, first, n_rows, out);
  } else {
    pack_floats<std::uint16_t>(weight, first, n_rows, out);
  }
}

}  // namespace quarrel::cpu
