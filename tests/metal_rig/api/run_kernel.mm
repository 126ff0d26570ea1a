// One kernel on NumPy's arrays through the Metal API, for ctypes: what the rig does for a kernel by
// itself, on the GPU of a Mac. Built for the software Metal too, so that it is tested itself.
#import <Foundation/Foundation.h>
#import <Metal/Metal.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <vector>

namespace {

struct Kernels {
  id<MTLDevice> device;
  id<MTLCommandQueue> queue;
  id<MTLLibrary> library;
  MTLFunctionConstantValues* constants;
};

struct Message {
  char* text;
  std::size_t size;
  void say(const char* what, NSError* error) const {
    const char* why = error == nil ? "no reason given" : error.localizedDescription.UTF8String;
    std::snprintf(text, size, "%s: %s", what, why);
  }
};

// As the product compiles them: see cpp/metal/pipeline_cache.mm.
MTLCompileOptions* compile_options() {
  MTLCompileOptions* options = [[MTLCompileOptions alloc] init];
  options.languageVersion = MTLLanguageVersion3_1;
#pragma clang diagnostic push
#pragma clang diagnostic ignored "-Wdeprecated-declarations"
  options.fastMathEnabled = NO;
#pragma clang diagnostic pop
  return options;
}

MTLSize size_of(const std::uint32_t (&extent)[3]) {
  return MTLSizeMake(extent[0], extent[1], extent[2]);
}

}  // namespace

extern "C" {

struct RunConstant {
  std::uint32_t index;
  std::uint32_t is_bool;  // else uint
  std::uint32_t bits;
};

struct RunLaunch {
  const char* kernel;
  void* const* data;  // [n_arguments]; null: not bound
  const std::size_t* n_bytes;
  const std::uint32_t* by_value;  // setBytes
  std::uint32_t n_arguments;
  std::uint32_t extent[3];  // threads if is_grid, else threadgroups
  std::uint32_t is_grid;
  std::uint32_t threads[3];
  const std::uint32_t* threadgroup_bytes;
  std::uint32_t n_threadgroup_arguments;
};

__attribute__((visibility("default"))) int run_is_available() {
  @autoreleasepool {
    id<MTLDevice> device = MTLCreateSystemDefaultDevice();
    return device != nil && [device supportsFamily:MTLGPUFamilyApple7];
  }
}

// Null, and a message, where the source does not compile.
__attribute__((visibility("default"))) void* run_load(const char* source,
                                                      const RunConstant* constants, std::size_t n,
                                                      char* text, std::size_t size) {
  @autoreleasepool {
    id<MTLDevice> device = MTLCreateSystemDefaultDevice();
    NSError* error = nil;
    NSString* code = [[NSString alloc] initWithBytes:source
                                              length:std::strlen(source)
                                            encoding:NSUTF8StringEncoding];
    id<MTLLibrary> library = [device newLibraryWithSource:code
                                                  options:compile_options()
                                                    error:&error];
    if (library == nil) {
      Message{text, size}.say("the source does not compile", error);
      return nullptr;
    }
    MTLFunctionConstantValues* values = [[MTLFunctionConstantValues alloc] init];
    for (std::size_t i = 0; i < n; ++i)
      [values setConstantValue:&constants[i].bits
                          type:constants[i].is_bool != 0 ? MTLDataTypeBool : MTLDataTypeUInt
                       atIndex:constants[i].index];
    return new Kernels{device, [device newCommandQueue], library, values};
  }
}

__attribute__((visibility("default"))) void run_unload(void* kernels) {
  @autoreleasepool {
    delete static_cast<Kernels*>(kernels);
  }
}

// 0, or 1 and a message. Arrays hold what the kernel has left there.
__attribute__((visibility("default"))) int run_launch(void* loaded, const RunLaunch* launch,
                                                      char* text, std::size_t size) {
  @autoreleasepool {
    const Kernels& kernels = *static_cast<Kernels*>(loaded);
    const Message message{text, size};
    NSError* error = nil;
    NSString* name = [[NSString alloc] initWithBytes:launch->kernel
                                              length:std::strlen(launch->kernel)
                                            encoding:NSUTF8StringEncoding];
    id<MTLFunction> function = [kernels.library newFunctionWithName:name
                                                     constantValues:kernels.constants
                                                              error:&error];
    if (function == nil) return message.say("no such kernel", error), 1;
    id<MTLComputePipelineState> pipeline =
        [kernels.device newComputePipelineStateWithFunction:function error:&error];
    if (pipeline == nil) return message.say("no pipeline", error), 1;
    const std::size_t n_threads =
        std::size_t{launch->threads[0]} * launch->threads[1] * launch->threads[2];
    if (n_threads > pipeline.maxTotalThreadsPerThreadgroup)
      return message.say("the kernel allows fewer threads in a threadgroup", nil), 1;

    id<MTLCommandBuffer> commands = [kernels.queue commandBuffer];
    id<MTLComputeCommandEncoder> encoder = [commands computeCommandEncoder];
    [encoder setComputePipelineState:pipeline];
    std::vector<id<MTLBuffer>> buffers(launch->n_arguments, nil);
    for (std::uint32_t i = 0; i < launch->n_arguments; ++i) {
      if (launch->data[i] == nullptr) continue;
      if (launch->by_value[i] != 0) {
        [encoder setBytes:launch->data[i] length:launch->n_bytes[i] atIndex:i];
        continue;
      }
      buffers[i] = [kernels.device newBufferWithLength:std::max<std::size_t>(launch->n_bytes[i], 16)
                                               options:MTLResourceStorageModeShared];
      std::memcpy(buffers[i].contents, launch->data[i], launch->n_bytes[i]);
      [encoder setBuffer:buffers[i] offset:0 atIndex:i];
    }
    for (std::uint32_t i = 0; i < launch->n_threadgroup_arguments; ++i)
      [encoder setThreadgroupMemoryLength:(launch->threadgroup_bytes[i] + 15) / 16 * 16 atIndex:i];
    if (launch->is_grid != 0)
      [encoder dispatchThreads:size_of(launch->extent)
          threadsPerThreadgroup:size_of(launch->threads)];
    else
      [encoder dispatchThreadgroups:size_of(launch->extent)
              threadsPerThreadgroup:size_of(launch->threads)];
    [encoder endEncoding];
    [commands commit];
    [commands waitUntilCompleted];
    if (commands.status == MTLCommandBufferStatusError)
      return message.say("the GPU failed", commands.error), 1;
    for (std::uint32_t i = 0; i < launch->n_arguments; ++i)
      if (buffers[i] != nil) std::memcpy(launch->data[i], buffers[i].contents, launch->n_bytes[i]);
    return 0;
  }
}

}  // extern "C"
