// Which ops of a program run as one kernel.
#pragma once

#include <cstddef>
#include <vector>

#include "program/program.h"

namespace quarrel::metal {

enum class Fusion {
  None,
  AddRmsNorm,   // a residual addition and the norm of its sum
  LinearAdd,    // a linear layer whose result is only added to something
  LinearGated,  // two linear layers of one input, of which one activates the other: two of decodes'
                // dispatches less
};

// Neighbours in a program.
struct FusedStage {
  Fusion fusion;
  std::size_t first;  // op
  std::size_t n_ops;
};

std::vector<FusedStage> fused_stages(const Program& program);

// [n_ops], ascending, for the memory planner: what a stage reads stays in place until its end.
std::vector<std::size_t> stage_of_op(const std::vector<FusedStage>& stages);

}  // namespace quarrel::metal
