// Repacks weights of the file into tiles; see packed_format.h.
#pragma once

#include <cstddef>

#include "cpu/packing/packed_format.h"
#include "program/ops.h"

namespace quarrel::cpu {

// Bytes of a matrix in tiles.
std::size_t packed_bytes(const Weight& weight);

// Writes tile `tile` of `weight`, packed_tile_bytes() long. Outputs beyond the last are zero.
void pack_tile(const Weight& weight, std::size_t tile, std::byte* to);

}  // namespace quarrel::cpu
