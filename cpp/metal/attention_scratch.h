// Where attention_decode leaves the sums of partitions until attention_decode_reduce joins them.
// Layers take turns.
#pragma once

#include <cstddef>
#include <memory>

#include "metal/context.h"
#include "metal/elastic_buffer.h"
#include "program/device.h"

namespace quarrel::metal {

class AttentionScratch {
 public:
  AttentionScratch(const Program& program, const StepLimits& limits, const Context& context,
                   const std::shared_ptr<MemoryLedger>& ledger);
  // Bytes that the constructor charges.
  static std::size_t planned_bytes(const Program& program, const StepLimits& limits);

  struct Partials {
    BufferRange values;  // [n_rows, head_dim] f32
    BufferRange sums;    // [n_rows, 2] f32
  };
  // n_rows: (token, head, partition) triples. Memory for all of a step is chosen before it is
  // encoded: see require().
  Partials partials(std::size_t n_rows, std::size_t head_dim) const;
  // Throws OutOfMemoryError.
  void require(const StepInputs& inputs);
  void shrink() { memory_.shrink(); }

 private:
  const Program& program_;
  ElasticBuffer memory_;
};

}  // namespace quarrel::metal
