// What the stages of one run share.
#pragma once

#include "cpu/cpu_executable.h"

namespace quarrel::cpu {

struct CpuExecutable::Step {
  const StepInputs& inputs;
  CpuKVStorage& storage;
};

}  // namespace quarrel::cpu
