#import "metal/metal_device.h"

#include <utility>

#include "metal/context.h"
#include "metal/metal_executable.h"
#include "metal/metal_kv_storage.h"
#include "metal/objc_text.h"

namespace quarrel::metal {

bool MetalDevice::is_available() {
  @autoreleasepool {
    id<MTLDevice> gpu = MTLCreateSystemDefaultDevice();
    return gpu != nil && [gpu supportsFamily:MTLGPUFamilyApple7];
  }
}

MetalDevice::MetalDevice(const MetalOptions& options) {
  @autoreleasepool {
    context_ = std::make_shared<Context>(options);
  }
}

MetalDevice::~MetalDevice() = default;

std::string MetalDevice::gpu_name() const { return to_string(context_->gpu().name); }
std::size_t MetalDevice::recommended_bytes() const {
  return context_->gpu().recommendedMaxWorkingSetSize;
}
std::size_t MetalDevice::allocated_bytes() const { return context_->gpu().currentAllocatedSize; }

std::unique_ptr<Executable> MetalDevice::compile(std::shared_ptr<const Program> program,
                                                 const StepLimits& limits,
                                                 std::shared_ptr<MemoryLedger> ledger) {
  @autoreleasepool {
    return std::make_unique<MetalExecutable>(std::move(program), limits, context_, ledger);
  }
}

MemoryNeeds MetalDevice::memory_needs(const Program& program, const StepLimits& limits) const {
  return metal::memory_needs(program, limits);
}

std::unique_ptr<KVStorage> MetalDevice::allocate_kv(const Program& program, const KVLayout& layout,
                                                    MemoryLedger& ledger) {
  @autoreleasepool {
    return std::make_unique<MetalKVStorage>(program, layout, *context_, ledger);
  }
}

std::vector<std::size_t> MetalDevice::kv_block_bytes(const Program& program, std::size_t block_size,
                                                     DType k_dtype, DType v_dtype) const {
  return metal::kv_block_bytes(program, block_size, k_dtype, v_dtype);
}

double MetalDevice::step_seconds() const { return context_->step_seconds; }

void MetalDevice::capture_next_step(const std::string& file) { context_->request_capture(file); }

}  // namespace quarrel::metal
