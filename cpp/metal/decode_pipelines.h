// The specialisations of a linear kernel for tokens that are decoded.
#pragma once

#include <cstddef>
#include <cstdint>

#include "metal/pipeline_cache.h"
#include "shaders/params.h"

namespace quarrel::metal {

// One for a single token and one for two, which need a fraction of the registers, and one for
// passes of several that share a reading of the weights; a pass that is not full costs what a full
// one does. Their bits are the same: see shaders/mat_vec.h.
class DecodePipelines {
 public:
  // make(tokens_per_pass) gives a pipeline.
  template <class Make>
  explicit DecodePipelines(const Make& make)
      : one_(make(std::uint32_t{1})),
        two_(make(std::uint32_t{2})),
        several_(make(std::uint32_t{kLinearMaxTokensPerPass})) {}

  const Pipeline& of(std::size_t n_tokens) const {
    return n_tokens == 1 ? one_ : n_tokens == 2 ? two_ : several_;
  }
  std::size_t n_passes(std::size_t n_tokens) const {
    return (n_tokens + kLinearMaxTokensPerPass - 1) / kLinearMaxTokensPerPass;
  }

 private:
  const Pipeline& one_;
  const Pipeline& two_;
  const Pipeline& several_;
};

}  // namespace quarrel::metal
