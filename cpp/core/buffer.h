// Page-aligned memory that is charged to the ledger for as long as it lives.
#pragma once

#include <cstddef>
#include <memory>

#include "core/memory_ledger.h"

namespace quarrel {

class Buffer {
 public:
  Buffer() = default;
  // Zeroed, aligned to a page; large buffers ask for huge pages. The system hands out pages when
  // they are first touched, so a large capacity costs resident memory only as it fills.
  // Throws OutOfMemoryError when the ledger or the system refuses.
  Buffer(MemoryLedger& ledger, MemoryKind kind, std::size_t n_bytes);
  Buffer(Buffer&& other) noexcept;
  Buffer& operator=(Buffer&& other) noexcept;
  ~Buffer();

  std::byte* data() { return data_; }
  const std::byte* data() const { return data_; }
  std::size_t size() const { return n_bytes_; }
  template <class T>
  T* as() {
    return reinterpret_cast<T*>(data_);
  }

 private:
  MemoryLedger::Charge charge_;
  std::byte* data_ = nullptr;
  std::size_t n_bytes_ = 0;
};

}  // namespace quarrel
