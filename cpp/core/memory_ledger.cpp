#include "core/memory_ledger.h"

#include <algorithm>
#include <string>
#include <utility>

#include "core/error.h"

namespace quarrel {

std::string_view memory_kind_name(MemoryKind kind) {
  switch (kind) {
    case MemoryKind::Weights:
      return "weights";
    case MemoryKind::KV:
      return "kv";
    case MemoryKind::Scratch:
      return "scratch";
    case MemoryKind::PrefixCache:
      return "prefix_cache";
    case MemoryKind::Snapshots:
      return "snapshots";
  }
  return "unknown";
}

MemoryLedger::Charge::Charge(std::shared_ptr<MemoryLedger> ledger, MemoryKind kind,
                             std::size_t bytes)
    : ledger_(std::move(ledger)), kind_(kind), bytes_(bytes) {}

MemoryLedger::Charge::Charge(Charge&& other) noexcept
    : ledger_(std::move(other.ledger_)),
      kind_(other.kind_),
      bytes_(std::exchange(other.bytes_, 0)) {}

MemoryLedger::Charge& MemoryLedger::Charge::operator=(Charge&& other) noexcept {
  std::swap(ledger_, other.ledger_);
  std::swap(kind_, other.kind_);
  std::swap(bytes_, other.bytes_);
  return *this;
}

MemoryLedger::Charge::~Charge() {
  if (ledger_) ledger_->release(kind_, bytes_);
}

std::shared_ptr<MemoryLedger> MemoryLedger::create(std::size_t cap_bytes) {
  return std::shared_ptr<MemoryLedger>(new MemoryLedger(cap_bytes));
}

void MemoryLedger::Charge::resize(std::size_t bytes) {
  if (bytes > bytes_) {
    ledger_->take(kind_, bytes - bytes_);
  } else if (bytes < bytes_) {
    ledger_->release(kind_, bytes_ - bytes);
  }
  bytes_ = bytes;
}

MemoryLedger::Charge MemoryLedger::charge(MemoryKind kind, std::size_t bytes) {
  take(kind, bytes);
  return Charge(shared_from_this(), kind, bytes);
}

void MemoryLedger::take(MemoryKind kind, std::size_t bytes) {
  const std::lock_guard lock(mutex_);
  const bool refused = refuse_in_ > 0 && --refuse_in_ == 0;
  if (refused || bytes > cap_bytes_ - total_) {
    throw OutOfMemoryError(
        "[memory] " + std::string(memory_kind_name(kind)) + " needs " + std::to_string(bytes) +
        " bytes but only " + std::to_string(cap_bytes_ - total_) + " of the cap of " +
        std::to_string(cap_bytes_) + " are free; raise memory_limit or lower the context length");
  }
  used_[static_cast<std::size_t>(kind)] += bytes;
  total_ += bytes;
  peak_ = std::max(peak_, total_);
}

void MemoryLedger::refuse_charge(std::size_t n) {
  const std::lock_guard lock(mutex_);
  refuse_in_ = n;
}

void MemoryLedger::release(MemoryKind kind, std::size_t bytes) {
  const std::lock_guard lock(mutex_);
  used_[static_cast<std::size_t>(kind)] -= bytes;
  total_ -= bytes;
}

std::size_t MemoryLedger::used_bytes() const {
  const std::lock_guard lock(mutex_);
  return total_;
}

std::size_t MemoryLedger::used_bytes(MemoryKind kind) const {
  const std::lock_guard lock(mutex_);
  return used_[static_cast<std::size_t>(kind)];
}

std::size_t MemoryLedger::peak_bytes() const {
  const std::lock_guard lock(mutex_);
  return peak_;
}

}  // namespace quarrel
