// How weights lie in memory once the CPU device has repacked them.
//
// A tile holds 16 outputs, so that a register lane is an output and every output adds its
// products in the order of its inputs, however many tokens there are.
//
// Quantised tile: the scales of all blocks, padded to 64 bytes, then for every 32 inputs their
// quants without sign, `bits` * 64 bytes. Quad g of 8 is inputs 4 g to 4 g + 3 of 16 outputs, byte
// 4 r + i being input 4 g + i of output r. Planes of 64 bytes carry the quads' bits:
//   8 bits: quad g in plane g.
//   4 bits: quad i in the low halves of plane i, quad i + 4 in the high halves (i < 4).
//   2 bits: quad g in bits 2 (g % 4) of plane g / 4.
//   1 bit:  quad g in bit g of one plane.
// 3, 5 and 6 bits are 2 + 1, 4 + 1 and 4 + 2, low planes first.
//
// Float tile: [n_in, 16] in the file's element type.
#pragma once

#include <cstddef>

#include "core/dtype.h"

namespace quarrel::cpu {

inline constexpr std::size_t kTileOutputs = 16;
inline constexpr std::size_t kSubBlock = 32;  // inputs

// Per block of the format, lanes are outputs. f16 unless it says otherwise.
enum class ScaleLayout {
  Float,     // not quantised
  Block,     // d[16] per 32 inputs
  BlockMin,  // d[16], m[16] per 32 inputs
  Sub32Min,  // d[16], dmin[16], u8 scales[8][16], u8 minimums[8][16] per 256
  Sub16Min,  // d[16], dmin[16], u8 scales[16][16]: scale low half, minimum high half; per 256
  Sub16,     // d[16], s8 scales[16][16] per 256
};

struct PackedGeometry {
  ScaleLayout scales;
  int bits;
  int offset_shift;  // a quant stands for itself minus 2^offset_shift; 0: for itself
};

constexpr PackedGeometry packed_geometry(DType dtype) {
  switch (dtype) {
    case DType::Q4_0:
      return {ScaleLayout::Block, 4, 3};
    case DType::Q5_0:
      return {ScaleLayout::Block, 5, 4};
    case DType::Q8_0:
      return {ScaleLayout::Block, 8, 7};
    case DType::Q4_1:
      return {ScaleLayout::BlockMin, 4, 0};
    case DType::Q5_1:
      return {ScaleLayout::BlockMin, 5, 0};
    case DType::Q4_K:
      return {ScaleLayout::Sub32Min, 4, 0};
    case DType::Q5_K:
      return {ScaleLayout::Sub32Min, 5, 0};
    case DType::Q2_K:
      return {ScaleLayout::Sub16Min, 2, 0};
    case DType::Q3_K:
      return {ScaleLayout::Sub16, 3, 2};
    case DType::Q6_K:
      return {ScaleLayout::Sub16, 6, 5};
    case DType::F32:
    case DType::F16:
    case DType::BF16:
      break;
  }
  return {ScaleLayout::Float, 0, 0};
}

constexpr bool is_quantized(DType dtype) {
  return packed_geometry(dtype).scales != ScaleLayout::Float;
}

constexpr std::size_t packed_block_inputs(ScaleLayout scales) {
  return scales == ScaleLayout::Block || scales == ScaleLayout::BlockMin ? kSubBlock : 256;
}

constexpr std::size_t packed_scale_bytes(ScaleLayout scales) {  // of a block
  switch (scales) {
    case ScaleLayout::Float:
      return 0;
    case ScaleLayout::Block:
      return 32;
    case ScaleLayout::BlockMin:
      return 64;
    case ScaleLayout::Sub16:
      return 32 + 256;
    case ScaleLayout::Sub32Min:
    case ScaleLayout::Sub16Min:
      return 64 + 256;
  }
  return 0;
}

// Where the quants of a tile start.
constexpr std::size_t packed_quants_offset(ScaleLayout scales, std::size_t n_in) {
  return (n_in / packed_block_inputs(scales) * packed_scale_bytes(scales) + 63) / 64 * 64;
}

constexpr std::size_t packed_tile_bytes(DType dtype, std::size_t n_in) {
  const PackedGeometry g = packed_geometry(dtype);
  if (g.scales == ScaleLayout::Float)
    return (n_in * kTileOutputs * (dtype == DType::F32 ? 4 : 2) + 63) / 64 * 64;
  return packed_quants_offset(g.scales, n_in) +
         n_in / kSubBlock * static_cast<std::size_t>(g.bits) * 64;
}

constexpr std::size_t packed_tiles(std::size_t n_out) {
  return (n_out + kTileOutputs - 1) / kTileOutputs;
}

// A row of activations as 16-bit integers times one scale: for every 32 inputs 32 high and 32 low
// bytes (q = 256 high + low, both signed), then int32 sums of every 32 and of every 16 quants,
// then the float scale.
constexpr std::size_t quantized_sums32_offset(std::size_t n_in) { return 2 * n_in; }
constexpr std::size_t quantized_sums16_offset(std::size_t n_in) { return 2 * n_in + n_in / 8; }
constexpr std::size_t quantized_scale_offset(std::size_t n_in) {
  return 2 * n_in + n_in / 8 + n_in / 4;
}
constexpr std::size_t quantized_row_bytes(std::size_t n_in) {
  return (quantized_scale_offset(n_in) + sizeof(float) + 63) / 64 * 64;
}

}  // namespace quarrel::cpu
