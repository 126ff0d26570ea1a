// Element types of K and V as the kernels know them.
#pragma once

#include <vector>

#include "metal/pipeline_cache.h"
#include "program/device.h"
#include "shaders/kv_layout.h"

namespace quarrel::metal {

// Throws InvalidArgument for a dtype that the kernels do not take.
KVType kv_type(DType dtype);

// The function constants that kv_write and attention share.
std::vector<FunctionConstant> kv_constants(const KVLayer& layer, const KVLayout& layout);

}  // namespace quarrel::metal
