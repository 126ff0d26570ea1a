// Where a thread's weights continue: what to ask memory for while it multiplies a tile.
//
// A step reads every weight once, stage after stage. While a thread multiplies the last tiles of
// its part of a stage, its first tiles of the next one are asked for, so that memory keeps working
// while threads meet and short stages run.
#pragma once

#include <cstddef>
#include <vector>

#include "cpu/packing/packed_weights.h"
#include "cpu/schedule.h"

namespace quarrel::cpu {

class WeightStream {
 public:
  WeightStream(const Schedule& schedule, const PackedWeights& weights, std::size_t n_threads);

  // stage: a linear one; tile: of all its matrices, one after the other.
  const std::byte* ahead(std::size_t stage, std::size_t tile) const;

 private:
  struct Matrix {
    const std::byte* tiles;
    std::size_t n_tiles;
    std::size_t tile_bytes;
  };
  struct LinearStage {
    std::vector<Matrix> matrices;
    std::size_t n_tiles = 0;
    std::size_t next = 0;  // the linear stage after this one; the last goes on with the first
  };
  struct Place {
    const Matrix& matrix;
    std::size_t tile;  // of the matrix
  };
  static Place find(const LinearStage& stage, std::size_t tile);
  static const std::byte* address(const LinearStage& stage, std::size_t tile);

  std::vector<LinearStage> stages_;  // [n_stages], those that are not linear empty
  std::size_t n_threads_;
};

}  // namespace quarrel::cpu
