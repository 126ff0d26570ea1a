#import "metal/kv_types.h"

#include <string>

#include "core/error.h"

namespace quarrel::metal {

KVType kv_type(DType dtype) {
  switch (dtype) {
    case DType::F32:
      return kKVF32;
    case DType::F16:
      return kKVF16;
    case DType::BF16:
      return kKVBF16;
    case DType::Q8_0:
      return kKVQ8_0;
    case DType::Q4_0:
      return kKVQ4_0;
    default:
      throw InvalidArgument(
          "[kv_cache] expected a K or V type among f32, f16, bf16, q8_0, q4_0, got " +
          std::string(traits(dtype).name));
  }
}

std::vector<FunctionConstant> kv_constants(const KVLayer& layer, const KVLayout& layout) {
  return {{kConstantHeadDim, static_cast<std::uint32_t>(layer.head_dim)},
          {kConstantBlockSize, static_cast<std::uint32_t>(layout.block_size)},
          {kConstantKType, static_cast<std::uint32_t>(kv_type(layout.k_dtype))},
          {kConstantVType, static_cast<std::uint32_t>(kv_type(layout.v_dtype))}};
}

}  // namespace quarrel::metal
