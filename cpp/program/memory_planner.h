// Where each value of a Program lives in the activation arenas.
#pragma once

#include <cstddef>
#include <span>
#include <vector>

#include "program/program.h"

namespace quarrel {

// An arena holds, for every row capacity R, the value with offset o and width w at elements
// [o * R, (o + w) * R): values are matrices of their own, so rows stay contiguous.
struct MemoryPlan {
  std::vector<std::size_t> offsets;  // [n_values], elements per row
  std::size_t token_width = 0;       // elements per row of the Tokens arena
  std::size_t selected_width = 0;    // elements per row of the Selected arena
};

// First-fit over live ranges. The output of an elementwise op takes the place of an input that
// dies there.
//
// stage_of_op: [n_ops], ascending. Ops of one stage may run at the same time on different rows, so
// what a stage reads stays in place until its end. Empty: every op is a stage.
MemoryPlan plan_memory(const Program& program, std::span<const std::size_t> stage_of_op = {});

}  // namespace quarrel
