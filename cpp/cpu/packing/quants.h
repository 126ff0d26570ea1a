// The quants and scales of one block of a file format, taken apart.
#pragma once

#include <cstdint>

#include "core/dtype.h"

namespace quarrel::cpu {

inline constexpr std::size_t kMaxBlockInputs = 256;

struct BlockParts {
  std::uint8_t quants[kMaxBlockInputs];  // unsigned, see PackedGeometry::offset_shift
  std::uint16_t d;                       // bits of an f16, as the next
  std::uint16_t minimum;                 // m or dmin, where the format has one
  std::uint8_t scales[16];               // of sub-blocks, in the layout's element type
  std::uint8_t minimums[8];              // of sub-blocks, where the layout has them apart
};

void take_apart(DType dtype, const std::uint8_t* block, BlockParts& parts);

}  // namespace quarrel::cpu
