#include "core/buffer.h"

#include <sys/mman.h>

#include <string>
#include <utility>

#include "core/error.h"

namespace quarrel {

Buffer::Buffer(MemoryLedger& ledger, MemoryKind kind, std::size_t n_bytes)
    : charge_(ledger.charge(kind, n_bytes)), n_bytes_(n_bytes) {
  if (n_bytes == 0) return;
  void* mapped = mmap(nullptr, n_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (mapped == MAP_FAILED) {
    throw OutOfMemoryError("[memory] the system refused " + std::to_string(n_bytes) +
                           " bytes for " + std::string(memory_kind_name(kind)));
  }
#ifdef MADV_HUGEPAGE
  constexpr std::size_t kHugePage = std::size_t{2} << 20;
  if (n_bytes >= kHugePage) madvise(mapped, n_bytes, MADV_HUGEPAGE);
#endif
  data_ = static_cast<std::byte*>(mapped);
}

Buffer::Buffer(Buffer&& other) noexcept
    : charge_(std::move(other.charge_)),
      data_(std::exchange(other.data_, nullptr)),
      n_bytes_(std::exchange(other.n_bytes_, 0)) {}

Buffer& Buffer::operator=(Buffer&& other) noexcept {
  std::swap(charge_, other.charge_);
  std::swap(data_, other.data_);
  std::swap(n_bytes_, other.n_bytes_);
  return *this;
}

Buffer::~Buffer() {
  if (data_ != nullptr) munmap(data_, n_bytes_);
}

}  // namespace quarrel
