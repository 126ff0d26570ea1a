// One account of every byte the engine takes, with a hard cap. Thread safe.
#pragma once

#include <array>
#include <cstddef>
#include <memory>
#include <mutex>
#include <string_view>

namespace quarrel {

enum class MemoryKind { Weights, KV, Scratch, PrefixCache, Snapshots };
inline constexpr std::size_t kMemoryKinds = 5;

// "weights", "kv", "scratch", "prefix_cache", "snapshots": the label of metrics and plans.
std::string_view memory_kind_name(MemoryKind kind);

class MemoryLedger : public std::enable_shared_from_this<MemoryLedger> {
 public:
  // What a holder of memory keeps; giving it up returns the bytes. Movable, not copyable.
  class Charge {
   public:
    Charge() = default;
    Charge(Charge&& other) noexcept;
    Charge& operator=(Charge&& other) noexcept;
    ~Charge();
    std::size_t bytes() const { return bytes_; }
    // Throws OutOfMemoryError, and then nothing has changed; a smaller size never does.
    void resize(std::size_t bytes);

   private:
    friend class MemoryLedger;
    Charge(std::shared_ptr<MemoryLedger> ledger, MemoryKind kind, std::size_t bytes);
    std::shared_ptr<MemoryLedger> ledger_;
    MemoryKind kind_ = MemoryKind::Scratch;
    std::size_t bytes_ = 0;
  };

  // cap_bytes: the sum of all kinds never exceeds it.
  static std::shared_ptr<MemoryLedger> create(std::size_t cap_bytes);

  // Throws OutOfMemoryError, naming what was asked and what is free, if the cap does not allow it.
  Charge charge(MemoryKind kind, std::size_t bytes);
  // For tests: the n-th charge from now, or growth of one, is refused whatever is free. 0: none.
  void refuse_charge(std::size_t n);

  std::size_t cap_bytes() const { return cap_bytes_; }
  std::size_t used_bytes() const;
  std::size_t used_bytes(MemoryKind kind) const;
  std::size_t peak_bytes() const;

 private:
  explicit MemoryLedger(std::size_t cap_bytes) : cap_bytes_(cap_bytes) {}
  void take(MemoryKind kind, std::size_t bytes);
  void release(MemoryKind kind, std::size_t bytes);

  const std::size_t cap_bytes_;
  mutable std::mutex mutex_;
  std::array<std::size_t, kMemoryKinds> used_{};
  std::size_t total_ = 0;
  std::size_t peak_ = 0;
  std::size_t refuse_in_ = 0;
};

}  // namespace quarrel
