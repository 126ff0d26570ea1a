// A model's tensors as the GPU sees them.
#pragma once

#include <cstddef>
#include <memory>
#include <vector>

#include "metal/context.h"
#include "program/program.h"

namespace quarrel::metal {

// Tensors of a mapped file stay where they lie: their pages become buffers. Others are copied.
class WeightMap {
 public:
  // Throws OutOfMemoryError.
  WeightMap(const Program& program, const Context& context, MemoryLedger& ledger);

  const BufferRange& operator[](WeightId id) const {
    return ranges_[static_cast<std::size_t>(id.index)];
  }

 private:
  struct Tensor;
  void map_pages(const std::vector<Tensor>& tensors, const Context& context, MemoryLedger& ledger);
  void copy(const std::vector<Tensor>& tensors, const Context& context, MemoryLedger& ledger);
  void place(const Tensor& tensor, const BufferRange& range);

  std::vector<SharedBuffer> buffers_;
  std::vector<BufferRange> ranges_;  // [n_weights]
};

}  // namespace quarrel::metal
