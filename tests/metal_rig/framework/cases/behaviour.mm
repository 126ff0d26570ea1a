// What the software Metal does when it is used rightly, and how failures reach the host.
#include <sys/mman.h>
#include <unistd.h>

#include <atomic>
#include <fstream>
#include <stdexcept>

#include "cases.h"

namespace {

void scale(id<MTLComputeCommandEncoder> encoder, Fixture& f, id<MTLBuffer> x, uint32_t addend) {
  [encoder setComputePipelineState:f.pipeline("scale")];
  [encoder setBuffer:x offset:0 atIndex:0];
  [encoder setBytes:&addend length:sizeof addend atIndex:1];
  dispatch(encoder);
}

void runs_kernels() {
  Fixture f;
  id<MTLBuffer> x = f.buffer();
  id<MTLCommandBuffer> commands = [f.queue commandBuffer];
  CHECK(commands.status == MTLCommandBufferStatusNotEnqueued);
  id<MTLComputeCommandEncoder> encoder = [commands computeCommandEncoder];
  CHECK(encoder.dispatchType == MTLDispatchTypeSerial);
  scale(encoder, f, x, 5);
  [encoder setComputePipelineState:f.pipeline("reverse")];
  [encoder setThreadgroupMemoryLength:256 atIndex:0];
  [encoder dispatchThreadgroups:MTLSizeMake(1, 1, 1) threadsPerThreadgroup:MTLSizeMake(64, 1, 1)];
  [encoder endEncoding];
  [commands commit];
  [commands waitUntilCompleted];
  CHECK(commands.status == MTLCommandBufferStatusCompleted);
  CHECK(commands.error == nil);
  CHECK(commands.GPUEndTime > commands.GPUStartTime);
  CHECK(commands.GPUEndTime - commands.GPUStartTime < 10);
  for (uint32_t i = 0; i < 64; ++i) CHECK(Fixture::at(x, i) == 2 * (64 - i) + 5);
  CHECK(rig_dispatch_count() == 2);
}

void specialises_by_constants() {
  Fixture f;
  id<MTLBuffer> x = f.buffer();
  const uint32_t zero = 0;
  id<MTLCommandBuffer> commands = [f.queue commandBuffer];
  id<MTLComputeCommandEncoder> encoder = [commands computeCommandEncoder];
  [encoder setBuffer:x offset:128 atIndex:0];
  [encoder setBytes:&zero length:4 atIndex:1];
  for (uint32_t factor : {3u, 7u}) {
    [encoder setComputePipelineState:f.pipeline("scale", factor)];
    dispatch(encoder, 32);
  }
  [encoder endEncoding];
  [commands commit];
  [commands waitUntilCompleted];
  CHECK(Fixture::at(x, 31) == 32);
  CHECK(Fixture::at(x, 32) == 33 * 21);
}

void calls_handlers_before_wait_returns() {
  Fixture f;
  std::atomic<int> n_done{0};
  std::atomic<int>* counter = &n_done;
  for (int i = 0; i < 50; ++i) {
    @autoreleasepool {
      id<MTLCommandBuffer> commands = [f.queue commandBuffer];
      id<MTLComputeCommandEncoder> encoder = [commands computeCommandEncoder];
      scale(encoder, f, f.buffer(), 0);
      [encoder endEncoding];
      [commands addCompletedHandler:^(id<MTLCommandBuffer> done) {
        if (done.status == MTLCommandBufferStatusCompleted) ++*counter;
      }];
      [commands commit];
      [commands waitUntilCompleted];
      CHECK(n_done == i + 1);
    }
  }
}

void retains_buffers_until_completion() {
  Fixture f;
  const size_t before = rig_live_buffers();
  id<MTLCommandBuffer> commands = [f.queue commandBuffer];
  CHECK(commands.retainedReferences);
  @autoreleasepool {
    id<MTLBuffer> x = f.buffer();
    id<MTLComputeCommandEncoder> encoder = [commands computeCommandEncoder];
    scale(encoder, f, x, 1);
    [encoder endEncoding];
    x = nil;
    encoder = nil;
  }
  CHECK(rig_live_buffers() == before + 1);  // nobody but the command buffer holds it
  [commands commit];
  [commands waitUntilCompleted];
  CHECK(commands.status == MTLCommandBufferStatusCompleted);
  CHECK(rig_live_buffers() == before);
}

void leaks_nothing() {
  Fixture f;
  const size_t buffers = rig_live_buffers(), bytes = f.device.currentAllocatedSize;
  for (int i = 0; i < 20; ++i) {
    @autoreleasepool {
      id<MTLCommandBuffer> commands = [f.queue commandBuffer];
      id<MTLComputeCommandEncoder> encoder = [commands computeCommandEncoder];
      scale(encoder, f, f.buffer(), 1);
      [encoder endEncoding];
      if (i % 2 == 0) {
        [commands commit];
        [commands waitUntilCompleted];
      }
    }
  }
  for (int wait = 0; rig_live_command_buffers() > 0 && wait < 1000; ++wait) usleep(1000);
  CHECK(rig_live_buffers() == buffers);
  CHECK(rig_live_command_buffers() == 0);
  CHECK(f.device.currentAllocatedSize == bytes);
}

void borrows_memory() {
  Fixture f;
  const size_t page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  void* memory = mmap(nullptr, page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  __block NSUInteger n_freed = 0;
  @autoreleasepool {
    id<MTLBuffer> x = [f.device newBufferWithBytesNoCopy:memory
                                                  length:page
                                                 options:MTLResourceStorageModeShared
                                             deallocator:^(void* bytes, NSUInteger length) {
                                               munmap(bytes, length);
                                               n_freed = length;
                                             }];
    CHECK(x.contents == memory && x.length == page);
    Fixture::at(x, 3) = 4;
    id<MTLCommandBuffer> commands = [f.queue commandBuffer];
    id<MTLComputeCommandEncoder> encoder = [commands computeCommandEncoder];
    scale(encoder, f, x, 1);
    [encoder endEncoding];
    [commands commit];
    [commands waitUntilCompleted];
    CHECK(Fixture::at(x, 3) == 9);
  }
  for (int wait = 0; n_freed == 0 && wait < 1000; ++wait) usleep(1000);
  CHECK(n_freed == page);
}

// Commits one dispatch of `name` and returns its finished command buffer.
id<MTLCommandBuffer> run_one(Fixture& f, const char* name, id<MTLBuffer> x) {
  id<MTLCommandBuffer> commands = [f.queue commandBuffer];
  id<MTLComputeCommandEncoder> encoder = [commands computeCommandEncoder];
  const uint32_t zero = 0;
  [encoder setComputePipelineState:f.pipeline(name)];
  [encoder setBuffer:x offset:0 atIndex:0];
  [encoder setBytes:&zero length:4 atIndex:1];
  dispatch(encoder);
  [encoder endEncoding];
  [commands commit];
  [commands waitUntilCompleted];
  return commands;
}

void check_failed(id<MTLCommandBuffer> commands, NSInteger code, const char* text) {
  CHECK(commands.status == MTLCommandBufferStatusError);
  CHECK(commands.error != nil && commands.error.code == code);
  CHECK([commands.error.domain isEqualToString:MTLCommandBufferErrorDomain]);
  CHECK(strstr(commands.error.localizedDescription.UTF8String, text) != nullptr);
}

// A failed command buffer says why, and the next one works.
void reports_out_of_bounds() {
  Fixture f;
  id<MTLBuffer> x = f.buffer();
  check_failed(run_one(f, "past_end", x), MTLCommandBufferErrorPageFault,
               "past_end: access outside");
  CHECK(run_one(f, "scale", x).status == MTLCommandBufferStatusCompleted);
  CHECK(Fixture::at(x, 0) == 2);
}
void reports_timeout() {
  rig_set_timeout_seconds(0.2);
  Fixture f;
  id<MTLBuffer> zeros = [f.device newBufferWithLength:256 options:MTLResourceStorageModeShared];
  CHECK(Fixture::at(zeros, 63) == 0);
  check_failed(run_one(f, "endless", zeros), MTLCommandBufferErrorTimeout, "time limit");
  CHECK(run_one(f, "scale", zeros).status == MTLCommandBufferStatusCompleted);
}
void injects_gpu_faults() {
  Fixture f;
  id<MTLBuffer> x = f.buffer();
  rig_inject(RIG_FAULT_GPU, 1);
  CHECK(run_one(f, "scale", x).status == MTLCommandBufferStatusCompleted);
  check_failed(run_one(f, "scale", x), MTLCommandBufferErrorPageFault, "injected");
  rig_inject(RIG_FAULT_TIMEOUT, 0);
  check_failed(run_one(f, "scale", x), MTLCommandBufferErrorTimeout, "injected");
  CHECK(run_one(f, "scale", x).status == MTLCommandBufferStatusCompleted);
  CHECK(Fixture::at(x, 0) == 4);
}
void injects_allocation_failures() {
  Fixture f;
  rig_inject(RIG_FAULT_ALLOCATION, 0);
  CHECK([f.device newBufferWithLength:64 options:MTLResourceStorageModeShared] == nil);
  CHECK([f.device newBufferWithLength:64 options:MTLResourceStorageModeShared] != nil);
}
void injects_compile_failures() {
  Fixture f;
  NSError* error = nil;
  rig_inject(RIG_FAULT_COMPILE, 0);
  CHECK([f.device newLibraryWithSource:@"" options:nil error:&error] == nil);
  CHECK(error.code == MTLLibraryErrorCompileFailure);
  id<MTLFunction> function = [f.library newFunctionWithName:@"copy"];
  rig_inject(RIG_FAULT_PIPELINE, 0);
  error = nil;
  CHECK([f.device newComputePipelineStateWithFunction:function error:&error] == nil);
  CHECK(error != nil);
  CHECK([f.device newComputePipelineStateWithFunction:function error:&error] != nil);
}

void reports_compile_errors() {
  Fixture f;
  NSError* error = nil;
  NSString* source = @"#include <metal_stdlib>\nkernel void k(device float* x) {\n  x[0] = y;\n}\n";
  CHECK([f.device newLibraryWithSource:source options:nil error:&error] == nil);
  CHECK([error.domain isEqualToString:MTLLibraryErrorDomain]);
  CHECK(strstr(error.localizedDescription.UTF8String, "source.metal:3:") != nullptr);
  error = nil;
  CHECK([f.library newFunctionWithName:@"missing"
                        constantValues:[[MTLFunctionConstantValues alloc] init]
                                 error:&error] == nil);
  CHECK(error.code == MTLLibraryErrorFunctionNotFound);
}

void passes_macros() {
  Fixture f;
  MTLCompileOptions* options = [[MTLCompileOptions alloc] init];
  options.preprocessorMacros = @{@"VALUE" : @"42"};
  NSError* error = nil;
  f.library =
      [f.device newLibraryWithSource:@"#include <metal_stdlib>\nkernel void k(device uint* x "
                                     @"[[buffer(0)]]) { x[0] = VALUE; }"
                             options:options
                               error:&error];
  CHECK(f.library != nil && f.library.functionNames.count == 1);
  id<MTLBuffer> x = f.buffer();
  CHECK(run_one(f, "k", x).status == MTLCommandBufferStatusCompleted);
  CHECK(Fixture::at(x, 0) == 42);
}

struct TemporaryFile {
  TemporaryFile() { close(mkstemp(path)); }
  ~TemporaryFile() { unlink(path); }
  NSURL* url() const { return [NSURL fileURLWithPath:[NSString stringWithUTF8String:path]]; }
  char path[32] = "/tmp/metal-rig-case-XXXXXX";
};

// A pipeline of `scale` with this factor, which the archive must have.
id<MTLComputePipelineState> archived(Fixture& f, id<MTLBinaryArchive> archive, uint32_t factor,
                                     NSError** error) {
  MTLComputePipelineDescriptor* descriptor = [[MTLComputePipelineDescriptor alloc] init];
  MTLFunctionConstantValues* values = [[MTLFunctionConstantValues alloc] init];
  [values setConstantValue:&factor type:MTLDataTypeUInt atIndex:0];
  descriptor.computeFunction = [f.library newFunctionWithName:@"scale"
                                               constantValues:values
                                                        error:nullptr];
  const id archives[] = {archive};
  descriptor.binaryArchives = [NSArray arrayWithObjects:archives count:1];
  if (!error) CHECK([archive addComputePipelineFunctionsWithDescriptor:descriptor error:nullptr]);
  return [f.device newComputePipelineStateWithDescriptor:descriptor
                                                 options:MTLPipelineOptionFailOnBinaryArchiveMiss
                                              reflection:nullptr
                                                   error:error];
}

void archives_pipelines() {
  Fixture f;
  TemporaryFile file;
  NSError* error = nil;
  MTLBinaryArchiveDescriptor* descriptor = [[MTLBinaryArchiveDescriptor alloc] init];
  id<MTLBinaryArchive> archive = [f.device newBinaryArchiveWithDescriptor:descriptor error:&error];
  CHECK(archived(f, archive, 3, nullptr) != nil);
  CHECK([archive serializeToURL:file.url() error:&error]);
  descriptor.url = file.url();
  archive = [f.device newBinaryArchiveWithDescriptor:descriptor error:&error];
  CHECK(archived(f, archive, 3, &error) != nil);
  CHECK(archived(f, archive, 4, &error) == nil);
  CHECK([error.domain isEqualToString:MTLBinaryArchiveDomain]);
  descriptor.url = [NSURL fileURLWithPath:@"/nowhere"];
  CHECK([f.device newBinaryArchiveWithDescriptor:descriptor error:&error] == nil);
  CHECK(error.code == MTLBinaryArchiveErrorInvalidFile);
  CHECK([f.device newLibraryWithURL:file.url() error:&error] == nil);
  CHECK(error.code == MTLLibraryErrorUnsupported);
}

void captures_frames() {
  Fixture f;
  TemporaryFile file;
  MTLCaptureManager* manager = [MTLCaptureManager sharedCaptureManager];
  CHECK([manager supportsDestination:MTLCaptureDestinationGPUTraceDocument]);
  MTLCaptureDescriptor* descriptor = [[MTLCaptureDescriptor alloc] init];
  descriptor.destination = MTLCaptureDestinationGPUTraceDocument;
  NSError* error = nil;
  CHECK(![manager startCaptureWithDescriptor:descriptor error:&error] && error != nil);
  descriptor.captureObject = f.queue;
  descriptor.outputURL = file.url();
  CHECK([manager startCaptureWithDescriptor:descriptor error:&error]);
  CHECK(manager.isCapturing);
  CHECK(![manager startCaptureWithDescriptor:descriptor error:&error]);
  run_one(f, "scale", f.buffer());
  [manager stopCapture];
  CHECK(!manager.isCapturing);
  run_one(f, "scale", f.buffer());
  std::ifstream trace(file.path);
  std::string line;
  CHECK(std::getline(trace, line) && line == "scale 64x1x1 / 32x1x1");
  CHECK(!std::getline(trace, line));
}

// C++ exceptions pass through Objective-C++ frames, and release what ARC holds on their way.
void throws_cpp_exceptions() {
  Fixture f;
  const size_t before = rig_live_buffers();
  bool caught = false;
  @autoreleasepool {
    try {
      id<MTLBuffer> x = f.buffer();
      if (x.length == 256) throw std::runtime_error("as planned");
    } catch (const std::exception& e) {
      caught = strcmp(e.what(), "as planned") == 0;
    }
  }
  CHECK(caught);
  CHECK(rig_live_buffers() == before);
}

// scale, then copy what it wrote; `barrier`: 0 none, 1 scope, 2 the right resource, 3 another one.
id<MTLCommandBuffer> scale_and_copy(Fixture& f, MTLDispatchType type, int barrier,
                                    uint32_t* result) {
  id<MTLBuffer> x = f.buffer(), y = f.buffer();
  id<MTLCommandBuffer> commands = [f.queue commandBuffer];
  id<MTLComputeCommandEncoder> encoder = [commands computeCommandEncoderWithDispatchType:type];
  scale(encoder, f, x, 0);
  if (barrier == 1) [encoder memoryBarrierWithScope:MTLBarrierScopeBuffers];
  if (barrier >= 2) {
    const id<MTLResource> resources[] = {barrier == 2 ? x : y};
    [encoder memoryBarrierWithResources:resources count:1];
  }
  [encoder setComputePipelineState:f.pipeline("copy")];
  [encoder setBuffer:x offset:0 atIndex:0];
  [encoder setBuffer:y offset:0 atIndex:1];
  dispatch(encoder);
  [encoder endEncoding];
  [commands commit];
  [commands waitUntilCompleted];
  *result = Fixture::at(y, 0);
  return commands;
}

void reports_hazards() {
  rig_set_access_checks(1);
  Fixture f;
  uint32_t result = 0;
  for (int barrier : {0, 3}) {
    check_failed(scale_and_copy(f, MTLDispatchTypeConcurrent, barrier, &result),
                 MTLCommandBufferErrorInternal, "of an earlier dispatch, with no barrier between");
  }
  for (int barrier : {1, 2}) {
    CHECK(scale_and_copy(f, MTLDispatchTypeConcurrent, barrier, &result).error == nil);
    CHECK(result == 2);
  }
  CHECK(scale_and_copy(f, MTLDispatchTypeSerial, 0, &result).error == nil);
}

// Dispatches that touch different parts of one buffer, or only read the same, need no barrier.
void sees_no_hazard_without_one() {
  rig_set_access_checks(1);
  Fixture f;
  id<MTLBuffer> x = f.buffer(192);
  id<MTLCommandBuffer> commands = [f.queue commandBuffer];
  id<MTLComputeCommandEncoder> encoder =
      [commands computeCommandEncoderWithDispatchType:MTLDispatchTypeConcurrent];
  [encoder setComputePipelineState:f.pipeline("copy")];
  for (NSUInteger part : {1ul, 2ul}) {
    [encoder setBuffer:x offset:0 atIndex:0];
    [encoder setBuffer:x offset:part * 256 atIndex:1];
    dispatch(encoder);
  }
  [encoder endEncoding];
  [commands commit];
  [commands waitUntilCompleted];
  CHECK(commands.error == nil);
  CHECK(Fixture::at(x, 191) == 64);
}

// Without access checks a missing barrier still shows: the reversed order gives another result.
void reverses_dispatches_between_barriers() {
  rig_set_reversed(1);
  Fixture f;
  uint32_t result = 0;
  CHECK(scale_and_copy(f, MTLDispatchTypeConcurrent, 0, &result).error == nil);
  CHECK(result == 1);
  CHECK(scale_and_copy(f, MTLDispatchTypeConcurrent, 1, &result).error == nil);
  CHECK(result == 2);
  CHECK(scale_and_copy(f, MTLDispatchTypeSerial, 0, &result).error == nil);
  CHECK(result == 2);
}

}  // namespace

int main(int argc, char** argv) {
#define CASE(name) {#name, name}
  return run_cases(
      {CASE(runs_kernels), CASE(specialises_by_constants), CASE(calls_handlers_before_wait_returns),
       CASE(retains_buffers_until_completion), CASE(leaks_nothing), CASE(borrows_memory),
       CASE(reports_out_of_bounds), CASE(reports_timeout), CASE(injects_gpu_faults),
       CASE(injects_allocation_failures), CASE(injects_compile_failures),
       CASE(reports_compile_errors), CASE(passes_macros), CASE(archives_pipelines),
       CASE(captures_frames), CASE(throws_cpp_exceptions), CASE(reports_hazards),
       CASE(sees_no_hazard_without_one), CASE(reverses_dispatches_between_barriers)},
      argc, argv);
}
