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

  std::size_t n_rows(RowSpace space) const {
    return space == RowSpace::Tokens ? inputs.n_tokens() : inputs.selected_rows.size();
  }
  // Rows of sequences that decode; a kernel is chosen by phase, never by the number of rows.
  RowRange decodes(RowSpace space) const {
    return {0, space == RowSpace::Tokens ? inputs.n_decodes : n_selected_decodes};
  }
  RowRange prefills(RowSpace space) const {
    const std::size_t first = decodes(space).n;
    return {first, n_rows(space) - first};
  }
};

}  // namespace quarrel::metal
