#import "metal/op_encoder.h"

#include "core/error.h"

namespace quarrel::metal {

std::string kernel_name(std::string_view family, DType dtype) {
  return std::string(family) + "_" + std::string(traits(dtype).name);
}

void expect_multiple(const char* op, std::size_t width, std::size_t of) {
  if (width % of == 0) return;
  throw InvalidArgument("[" + std::string(op) + "] expected a width that is a multiple of " +
                        std::to_string(of) + " on Metal, got " + std::to_string(width) +
                        "; use device=\"cpu\"");
}

}  // namespace quarrel::metal
