// What the encoders of one step share.
#pragma once

#include <cstddef>

#include "metal/metal_kv_storage.h"
#include "metal/step_encoder.h"
#include "program/device.h"

namespace quarrel::metal {

// Rows [first, first + n) of a value.
struct RowRange {
  std::size_t first;
  std::size_t n;
};

struct Step {
  const StepInputs& inputs;
  const MetalKVStorage& storage;
  StepEncoder& encoder;
  std::size_t n_selected_decodes;  // of the selected rows, the first ones
  bool without_decodes = false;    // their rows are another encoder's

  std::size_t n_rows(RowSpace space) const {
    return space == RowSpace::Tokens ? inputs.n_tokens() : inputs.selected_rows.size();
  }
  // Rows of sequences that decode; a kernel is chosen by phase, never by the number of rows.
  RowRange decodes(RowSpace space) const { return {0, without_decodes ? 0 : first_prefill(space)}; }
  RowRange prefills(RowSpace space) const {
    return {first_prefill(space), n_rows(space) - first_prefill(space)};
  }
  RowRange both(RowSpace space) const {
    return without_decodes ? prefills(space) : RowRange{0, n_rows(space)};
  }
  Step only_prefills() const {
    Step step = *this;
    step.without_decodes = true;
    return step;
  }

 private:
  std::size_t first_prefill(RowSpace space) const {
    return space == RowSpace::Tokens ? inputs.n_decodes : n_selected_decodes;
  }
};

}  // namespace quarrel::metal
