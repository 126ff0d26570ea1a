// Compiled kernels, specialised by function constants, made once per device.
#pragma once

#import <Metal/Metal.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "metal/metal_device.h"

namespace quarrel::metal {

// The value of a function constant; ids are those of shaders/params.h.
struct FunctionConstant {
  FunctionConstant(std::uint32_t id, std::uint32_t value)
      : id(id), type(MTLDataTypeUInt), bits(value) {}
  FunctionConstant(std::uint32_t id, bool value) : id(id), type(MTLDataTypeBool), bits(value) {}

  std::uint32_t id;
  MTLDataType type;
  std::uint32_t bits;
};

struct Pipeline {
  id<MTLComputePipelineState> state;
  std::string name;  // the kernel's

  // `wanted` threads of a threadgroup, or the most whole simdgroups that this kernel allows.
  std::size_t max_threads(std::size_t wanted) const {
    return std::min<std::size_t>(wanted, state.maxTotalThreadsPerThreadgroup / 32 * 32);
  }
};

class PipelineCache {
 public:
  PipelineCache(id<MTLDevice> device, const MetalOptions& options);

  // The kernel of shaders/<stem>.metal; the reference stays valid as long as this object. Throws
  // Error with the compiler's message.
  const Pipeline& get(std::string_view stem, const std::string& kernel,
                      const std::vector<FunctionConstant>& constants = {});

  // Keeps what was compiled for the next process. A folder that cannot be written is no error:
  // compiling again costs time only.
  void save_archive();

 private:
  id<MTLLibrary> library(std::string_view stem);
  id<MTLComputePipelineState> make_state(id<MTLFunction> function);
  void open_archive();

  id<MTLDevice> device_;
  MetalOptions options_;
  std::map<std::string, id<MTLLibrary>, std::less<>> libraries_;  // by stem
  std::map<std::string, Pipeline> pipelines_;                     // by stem, kernel and constants
  id<MTLBinaryArchive> archive_ = nil;
  std::string archive_file_;
  bool archive_is_stale_ = false;
};

}  // namespace quarrel::metal
