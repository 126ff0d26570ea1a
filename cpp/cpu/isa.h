// Which instruction set's kernels to run.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "cpu/kernels.h"

namespace quarrel::cpu {

// The sets this build holds and this machine can run, best first; "portable" is always last.
std::vector<std::string> available_isas();

// name: one of available_isas(), or "auto" for the first. InvalidArgument for any other.
const KernelTable& kernels_for(std::string_view name);

}  // namespace quarrel::cpu
