// The last so many of some small records, in memory that is taken once.
#pragma once

#include <algorithm>
#include <bit>
#include <cstddef>
#include <type_traits>
#include <vector>

#include "core/buffer.h"

namespace quarrel {

// One writer; whoever reads does so while nobody writes. Writing allocates nothing.
template <class T>
class Ring {
 public:
  static_assert(std::is_trivially_copyable_v<T> && std::is_trivially_destructible_v<T>);

  // capacity: records, rounded up to a power of two. Throws OutOfMemoryError.
  Ring(MemoryLedger& ledger, std::size_t capacity)
      : mask_(std::bit_ceil(std::max<std::size_t>(capacity, 1)) - 1),
        memory_(ledger, MemoryKind::Scratch, (mask_ + 1) * sizeof(T)) {}

  void push(const T& record) {
    memory_.as<T>()[n_ & mask_] = record;
    ++n_;
  }
  void clear() { n_ = 0; }

  std::size_t capacity() const { return mask_ + 1; }
  // Records that later ones have taken the place of.
  std::size_t n_lost() const { return n_ > capacity() ? n_ - capacity() : 0; }
  // Oldest first.
  std::vector<T> records() const {
    const auto* all = reinterpret_cast<const T*>(memory_.data());
    std::vector<T> out;
    out.reserve(n_ - n_lost());
    for (std::size_t i = n_lost(); i < n_; ++i) out.push_back(all[i & mask_]);
    return out;
  }

 private:
  std::size_t mask_;
  std::size_t n_ = 0;
  Buffer memory_;
};

}  // namespace quarrel
