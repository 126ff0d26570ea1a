#include "metal.h"

#import <Metal/Metal.h>

#include <cstring>
#include <stdexcept>

struct Metal::State {
  id<MTLDevice> device;
  id<MTLCommandQueue> queue;
  id<MTLComputePipelineState> pipeline;
};

static std::runtime_error failure(NSError* error) {
  return std::runtime_error(error ? error.localizedDescription.UTF8String : "unknown");
}

Metal::Metal(const std::string& source) : state_(std::make_unique<State>()) {
  @autoreleasepool {
    NSError* error = nil;
    state_->device = MTLCreateSystemDefaultDevice();
    state_->queue = [state_->device newCommandQueue];
    id<MTLLibrary> library =
        [state_->device newLibraryWithSource:[NSString stringWithUTF8String:source.c_str()]
                                     options:nil
                                       error:&error];
    if (!library) throw failure(error);
    state_->pipeline =
        [state_->device newComputePipelineStateWithFunction:[library newFunctionWithName:@"add"]
                                                      error:&error];
    if (!state_->pipeline) throw failure(error);
  }
}

Metal::~Metal() = default;

void Metal::add(float* x, const float* y, uint32_t n, float scale) {
  @autoreleasepool {
    const MTLResourceOptions shared = MTLResourceStorageModeShared;
    id<MTLBuffer> bx = [state_->device newBufferWithBytes:x length:n * 4 options:shared];
    id<MTLBuffer> by = [state_->device newBufferWithBytes:y length:n * 4 options:shared];
    struct {
      uint32_t n;
      float scale;
    } params = {n, scale};
    id<MTLCommandBuffer> commands = [state_->queue commandBuffer];
    id<MTLComputeCommandEncoder> encoder = [commands computeCommandEncoder];
    [encoder setComputePipelineState:state_->pipeline];
    [encoder setBuffer:bx offset:0 atIndex:0];
    [encoder setBuffer:by offset:0 atIndex:1];
    [encoder setBuffer:bx offset:0 atIndex:2];
    [encoder setBytes:&params length:sizeof params atIndex:3];
    [encoder dispatchThreads:MTLSizeMake(n, 1, 1) threadsPerThreadgroup:MTLSizeMake(64, 1, 1)];
    [encoder endEncoding];
    [commands commit];
    [commands waitUntilCompleted];
    if (commands.status == MTLCommandBufferStatusError) throw failure(commands.error);
    memcpy(x, bx.contents, n * 4);
  }
}
