// The Metal device of a build without Metal.
#include "core/error.h"
#include "metal/metal_device.h"

namespace quarrel::metal {
namespace {

[[noreturn]] void fail() {
  throw Error(
      "[metal] this build has no Metal: use device=\"cpu\", or install on a Mac with Apple "
      "silicon");
}

}  // namespace

class Context {};

bool MetalDevice::is_available() { return false; }
MetalDevice::MetalDevice(const MetalOptions&) { fail(); }
MetalDevice::~MetalDevice() = default;
std::string MetalDevice::gpu_name() const { fail(); }
std::size_t MetalDevice::recommended_bytes() const { fail(); }
std::size_t MetalDevice::allocated_bytes() const { fail(); }
std::unique_ptr<Executable> MetalDevice::compile(std::shared_ptr<const Program>, const StepLimits&,
                                                 std::shared_ptr<MemoryLedger>) {
  fail();
}
MemoryNeeds MetalDevice::memory_needs(const Program&, const StepLimits&) const { fail(); }
std::unique_ptr<KVStorage> MetalDevice::allocate_kv(const Program&, const KVLayout&,
                                                    MemoryLedger&) {
  fail();
}
std::vector<std::size_t> MetalDevice::kv_block_bytes(const Program&, std::size_t, DType,
                                                     DType) const {
  fail();
}
double MetalDevice::step_seconds() const { fail(); }
void MetalDevice::capture_next_step(const std::string&) { fail(); }

}  // namespace quarrel::metal
