#import "metal/context.h"

#include <utility>

#include "core/error.h"
#include "metal/objc_text.h"

namespace quarrel::metal {
namespace {

// simdgroup matrices and simdgroup reductions need Apple's seventh GPU family, the M1's.
id<MTLDevice> find_gpu() {
  id<MTLDevice> gpu = MTLCreateSystemDefaultDevice();
  if (gpu == nil) throw Error("[metal] the system has no GPU for Metal: use device=\"cpu\"");
  if (![gpu supportsFamily:MTLGPUFamilyApple7])
    throw Error("[metal] " + to_string(gpu.name) +
                " is older than Apple's M1 and lacks what the kernels need: use device=\"cpu\"");
  return gpu;
}

}  // namespace

Context::Context(const MetalOptions& options)
    : gpu_(find_gpu()), queue_([gpu_ newCommandQueue]), pipelines_(gpu_, options) {
  if (queue_ == nil) throw Error("[metal] the system gives no command queue: use device=\"cpu\"");
}

id<MTLCommandBuffer> Context::new_command_buffer() {
  id<MTLCommandBuffer> commands = [queue_ commandBuffer];
  if (commands == nil) throw Error("[metal] the system gives no command buffer; try again");
  return commands;
}

void Context::renew_queue() {
  id<MTLCommandQueue> queue = [gpu_ newCommandQueue];
  if (queue != nil) queue_ = queue;
}

void Context::begin_capture() {
  const std::string file = std::exchange(capture_file_, {});
  if (file.empty()) return;
  MTLCaptureDescriptor* descriptor = [[MTLCaptureDescriptor alloc] init];
  descriptor.captureObject = gpu_;
  descriptor.destination = MTLCaptureDestinationGPUTraceDocument;
  descriptor.outputURL = [NSURL fileURLWithPath:to_objc(file)];
  NSError* error = nil;
  if (![[MTLCaptureManager sharedCaptureManager] startCaptureWithDescriptor:descriptor
                                                                      error:&error])
    throw Error("[metal] no capture to " + file + ": " + message_of(error) +
                "; set METAL_CAPTURE_ENABLED=1 and name a file that does not exist");
}

void Context::end_capture() {
  MTLCaptureManager* manager = [MTLCaptureManager sharedCaptureManager];
  if (manager.isCapturing) [manager stopCapture];
}

}  // namespace quarrel::metal
