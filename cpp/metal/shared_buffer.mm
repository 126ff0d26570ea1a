#import "metal/shared_buffer.h"

#include <algorithm>
#include <string>

#include "core/error.h"

namespace quarrel::metal {
namespace {

void check_working_set(id<MTLDevice> device, MemoryKind kind, std::size_t n_bytes) {
  const std::size_t limit = device.recommendedMaxWorkingSetSize;
  const std::size_t taken = device.currentAllocatedSize;
  if (taken + n_bytes <= limit) return;
  throw OutOfMemoryError("[metal] " + std::string(memory_kind_name(kind)) + " needs " +
                         std::to_string(n_bytes) + " bytes but " + std::to_string(taken) +
                         " of the GPU's recommended " + std::to_string(limit) +
                         " are taken; choose a smaller model or lower kv_cache_memory");
}

[[noreturn]] void refused(MemoryKind kind, std::size_t n_bytes) {
  throw OutOfMemoryError("[metal] the GPU refused " + std::to_string(n_bytes) + " bytes for " +
                         std::string(memory_kind_name(kind)) +
                         "; close other programs or lower kv_cache_memory");
}

}  // namespace

SharedBuffer::SharedBuffer(id<MTLDevice> device, MemoryLedger& ledger, MemoryKind kind,
                           std::size_t n_bytes)
    : charge_(ledger.charge(kind, n_bytes)), n_bytes_(n_bytes) {
  check_working_set(device, kind, n_bytes);
  // Metal has no empty buffers.
  buffer_ = [device newBufferWithLength:std::max<std::size_t>(n_bytes, 16)
                                options:MTLResourceStorageModeShared];
  if (buffer_ == nil) refused(kind, n_bytes);
}

SharedBuffer::SharedBuffer(id<MTLDevice> device, MemoryLedger& ledger, MemoryKind kind,
                           std::span<const std::byte> pages, std::size_t charged_bytes)
    : charge_(ledger.charge(kind, charged_bytes)), n_bytes_(pages.size()) {
  check_working_set(device, kind, pages.size());
  // Nobody writes: Metal has no read-only buffers, so the const goes here.
  buffer_ = [device newBufferWithBytesNoCopy:const_cast<std::byte*>(pages.data())
                                      length:pages.size()
                                     options:MTLResourceStorageModeShared
                                 deallocator:nil];
  if (buffer_ == nil) refused(kind, pages.size());
}

}  // namespace quarrel::metal
