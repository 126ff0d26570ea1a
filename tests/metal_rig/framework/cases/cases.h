// A tiny harness: `program NAME` runs one case and fails if a CHECK does. Compiled as the product's
// Objective-C++ is, so the cases also prove the ARC bridge.
#pragma once
#import <Metal/Metal.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "rig_control.h"

#define CHECK(condition)                                                            \
  do {                                                                              \
    if (!(condition)) {                                                             \
      fprintf(stderr, "%s:%d: CHECK(%s) failed\n", __FILE__, __LINE__, #condition); \
      exit(1);                                                                      \
    }                                                                               \
  } while (false)

// double_it: buffer 0 in place, times two plus setBytes' addend (buffer 1).
inline const char* const kKernels = R"(
#include <metal_stdlib>
using namespace metal;
constant uint kFactor [[function_constant(0)]];
kernel void scale(device uint* x [[buffer(0)]], constant uint& addend [[buffer(1)]],
                  uint i [[thread_position_in_grid]]) {
  x[i] = x[i] * kFactor + addend;
}
kernel void copy(device const uint* from [[buffer(0)]], device uint* to [[buffer(1)]],
                 uint i [[thread_position_in_grid]]) {
  to[i] = from[i];
}
kernel void reverse(device uint* x [[buffer(0)]], threadgroup uint* shared [[threadgroup(0)]],
                    uint i [[thread_index_in_threadgroup]], uint n [[threads_per_threadgroup]]) {
  shared[i] = x[i];
  threadgroup_barrier(mem_flags::mem_threadgroup);
  x[i] = shared[n - 1 - i];
}
kernel void past_end(device uint* x [[buffer(0)]], uint i [[thread_position_in_grid]]) {
  x[i + 64] = i;
}
kernel void endless(device uint* x [[buffer(0)]], uint i [[thread_position_in_grid]]) {
  while (*(volatile device uint*)&x[i] == 0) {}
}
)";

struct Fixture {
  id<MTLDevice> device = MTLCreateSystemDefaultDevice();
  id<MTLCommandQueue> queue = [device newCommandQueue];
  id<MTLLibrary> library = nil;

  Fixture() {
    NSError* error = nil;
    library = [device newLibraryWithSource:[NSString stringWithUTF8String:kKernels]
                                   options:nil
                                     error:&error];
    if (!library) fprintf(stderr, "%s\n", error.localizedDescription.UTF8String);
    CHECK(library != nil);
  }
  id<MTLComputePipelineState> pipeline(const char* name, uint32_t factor = 2) {
    MTLFunctionConstantValues* values = [[MTLFunctionConstantValues alloc] init];
    [values setConstantValue:&factor type:MTLDataTypeUInt atIndex:0];
    NSError* error = nil;
    id<MTLFunction> function = [library newFunctionWithName:[NSString stringWithUTF8String:name]
                                             constantValues:values
                                                      error:&error];
    CHECK(function != nil);
    id<MTLComputePipelineState> state = [device newComputePipelineStateWithFunction:function
                                                                              error:&error];
    CHECK(state != nil);
    return state;
  }
  // n elements: 1, 2, 3, ...
  id<MTLBuffer> buffer(size_t n = 64) {
    id<MTLBuffer> result = [device newBufferWithLength:n * 4 options:MTLResourceStorageModeShared];
    for (size_t i = 0; i < n; ++i) at(result, i) = static_cast<uint32_t>(i + 1);
    return result;
  }
  static uint32_t& at(id<MTLBuffer> buffer, size_t i) {
    return static_cast<uint32_t*>(buffer.contents)[i];
  }
};

inline void dispatch(id<MTLComputeCommandEncoder> encoder, NSUInteger n = 64) {
  [encoder dispatchThreads:MTLSizeMake(n, 1, 1) threadsPerThreadgroup:MTLSizeMake(32, 1, 1)];
}

using Cases = std::map<std::string, std::function<void()>>;
inline int run_cases(const Cases& cases, int argc, char** argv) {
  if (argc == 2 && strcmp(argv[1], "--list") == 0) {
    for (const auto& entry : cases) printf("%s\n", entry.first.c_str());
    return 0;
  }
  const auto found = argc == 2 ? cases.find(argv[1]) : cases.end();
  if (found == cases.end()) return 2;
  rig_reset();
  @autoreleasepool {
    found->second();
  }
  return 0;
}
