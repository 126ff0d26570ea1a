// Memory that host and GPU share, charged to the ledger for as long as it lives.
#pragma once

#import <Metal/Metal.h>

#include <cstddef>
#include <span>

#include "core/memory_ledger.h"

namespace quarrel::metal {

// A part of a buffer, as a dispatch binds it.
struct BufferRange {
  id<MTLBuffer> buffer;
  std::size_t offset;
  std::size_t n_bytes;

  // The part from `first` bytes on, `n` bytes long.
  BufferRange part(std::size_t first, std::size_t n) const { return {buffer, offset + first, n}; }
};

class SharedBuffer {
 public:
  SharedBuffer() = default;
  // Throws OutOfMemoryError when the ledger refuses, when the GPU's recommended working set would
  // be exceeded, or when the system refuses.
  SharedBuffer(id<MTLDevice> device, MemoryLedger& ledger, MemoryKind kind, std::size_t n_bytes);
  // The GPU sees pages where they lie. `pages` starts at a page and is whole pages long; of them
  // `charged_bytes` count. The memory must outlive this object.
  SharedBuffer(id<MTLDevice> device, MemoryLedger& ledger, MemoryKind kind,
               std::span<const std::byte> pages, std::size_t charged_bytes);

  std::byte* data() const { return static_cast<std::byte*>(buffer_.contents); }
  std::size_t size() const { return n_bytes_; }
  BufferRange range() const { return {buffer_, 0, n_bytes_}; }
  BufferRange range(std::size_t offset, std::size_t n_bytes) const {
    return {buffer_, offset, n_bytes};
  }

 private:
  MemoryLedger::Charge charge_;
  id<MTLBuffer> buffer_ = nil;
  std::size_t n_bytes_ = 0;
};

}  // namespace quarrel::metal
