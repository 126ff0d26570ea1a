// Shared memory of a planned size that covers the steps it was planned for; a larger step takes
// more from the ledger, until shrink().
#pragma once

#include <cstddef>
#include <memory>
#include <utility>

#include "metal/context.h"
#include "metal/shared_buffer.h"

namespace quarrel::metal {

class ElasticBuffer {
 public:
  ElasticBuffer(const Context& context, std::shared_ptr<MemoryLedger> ledger,
                std::size_t planned_bytes)
      : context_(context),
        ledger_(std::move(ledger)),
        planned_(context.allocate(*ledger_, MemoryKind::Scratch, planned_bytes)) {}

  // Chooses memory of at least n_bytes; what it held is gone. Throws OutOfMemoryError.
  void require(std::size_t n_bytes) {
    is_larger_ = n_bytes > planned_.size();
    if (!is_larger_ || n_bytes <= larger_.size()) return;
    larger_ = SharedBuffer();  // returned first: the cap need not hold both
    larger_ = context_.allocate(*ledger_, MemoryKind::Scratch, n_bytes);
  }
  const SharedBuffer& get() const { return is_larger_ ? larger_ : planned_; }
  void shrink() {
    larger_ = SharedBuffer();
    is_larger_ = false;
  }

 private:
  const Context& context_;
  std::shared_ptr<MemoryLedger> ledger_;
  SharedBuffer planned_;
  SharedBuffer larger_;
  bool is_larger_ = false;
};

}  // namespace quarrel::metal
