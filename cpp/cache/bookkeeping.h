// The memory that a cache's own tables take, charged to the ledger as "prefix_cache".
#pragma once

#include <cstddef>
#include <memory>
#include <utility>

#include "core/memory_ledger.h"

namespace quarrel {

// What a cache is told of memory. Without a ledger nothing is charged.
struct BookkeepingLimits {
  std::shared_ptr<MemoryLedger> ledger;
  // Tables for this many sequences of up to max_tokens are charged when the cache is made, so that
  // none of them can be refused later. More sequences, or longer ones, are charged as they come.
  std::size_t max_sequences = 0;
  std::size_t max_tokens = 0;
};

class Bookkeeping {
 public:
  // Memory of one sequence; giving it up returns the bytes. Movable, not copyable.
  class Share {
   public:
    Share() = default;
    Share(Bookkeeping& owner, std::size_t bytes) : owner_(&owner) { grow(bytes); }
    Share(Share&& other) noexcept
        : owner_(std::exchange(other.owner_, nullptr)), bytes_(std::exchange(other.bytes_, 0)) {}
    Share& operator=(Share&& other) noexcept {
      std::swap(owner_, other.owner_);
      std::swap(bytes_, other.bytes_);
      return *this;
    }
    ~Share() {
      if (owner_ != nullptr) owner_->give_back(bytes_);
    }
    // To at least `bytes`. Throws OutOfMemoryError, and then nothing has changed.
    void grow(std::size_t bytes) {
      if (bytes <= bytes_) return;
      owner_->take(bytes - bytes_);
      bytes_ = bytes;
    }
    std::size_t bytes() const { return bytes_; }

   private:
    Bookkeeping* owner_ = nullptr;
    std::size_t bytes_ = 0;
  };

  // fixed_bytes are taken for good, for_shares can be taken later; all are charged now. Throws
  // OutOfMemoryError.
  Bookkeeping(const std::shared_ptr<MemoryLedger>& ledger, std::size_t fixed_bytes,
              std::size_t for_shares)
      : reserved_(fixed_bytes + for_shares), taken_(fixed_bytes) {
    if (ledger) charge_ = ledger->charge(MemoryKind::PrefixCache, reserved_);
    has_ledger_ = ledger != nullptr;
  }
  Bookkeeping(const Bookkeeping&) = delete;
  Bookkeeping& operator=(const Bookkeeping&) = delete;

  std::size_t taken_bytes() const { return taken_; }
  // Whether the ledger was charged what it should have been.
  bool is_exact() const {
    return !has_ledger_ || charge_.bytes() == (taken_ > reserved_ ? taken_ : reserved_);
  }

  void take(std::size_t bytes) {
    if (has_ledger_ && taken_ + bytes > charge_.bytes()) charge_.resize(taken_ + bytes);
    taken_ += bytes;
  }
  void give_back(std::size_t bytes) noexcept {
    taken_ -= bytes;
    if (has_ledger_ && charge_.bytes() > reserved_)
      charge_.resize(taken_ > reserved_ ? taken_ : reserved_);
  }

 private:
  bool has_ledger_ = false;
  std::size_t reserved_;
  std::size_t taken_;
  MemoryLedger::Charge charge_;
};

}  // namespace quarrel
