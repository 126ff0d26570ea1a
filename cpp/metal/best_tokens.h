// Which tokens have the largest logits, found by the GPU that has just computed them: the host
// then reads a few ids instead of whole rows.
#pragma once

#include <cstddef>

#include "metal/op_encoder.h"
#include "program/device.h"

namespace quarrel::metal {

class BestTokensEncoder {
 public:
  BestTokensEncoder(const Setup& setup, const StepLimits& limits, MemoryLedger& ledger);
  // Bytes that the constructor charges.
  static std::size_t planned_bytes(const Program& program, const StepLimits& limits);

  // Adds to a step what its inputs ask for, within the memory there is.
  void encode(const Step& step);
  // Of the last step, once it has run.
  BestTokens result() const;

 private:
  void encode_argmax(const Step& step, std::size_t n_rows) const;
  void encode_top_k(const Step& step, std::size_t n_rows) const;

  const Setup& setup_;
  std::size_t vocab_size_;
  std::size_t max_rows_;
  SharedBuffer memory_;
  BufferRange ids_;         // [max_rows, kMaxBest] uint32
  BufferRange values_;      // [max_rows, kMaxBest] f32
  BufferRange candidates_;  // [max_rows, chunks of the vocabulary, kMaxBest] uint64
  const Pipeline& argmax_;
  const Pipeline& chunks_;
  const Pipeline& merge_;
  std::size_t k_ = 0;  // of the last step
  std::size_t n_rows_ = 0;
};

}  // namespace quarrel::metal
