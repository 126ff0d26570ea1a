// Which ops of a program run as one kernel.
#pragma once

#include <cstddef>
#include <vector>

#include "program/program.h"

namespace quarrel::metal {

// [n_ops], ascending: ops of the same stage are one dispatch, and the memory planner keeps what a
// stage reads in place until its end. A residual addition and the norm of its sum are a stage.
std::vector<std::size_t> fused_stages(const Program& program);

}  // namespace quarrel::metal
