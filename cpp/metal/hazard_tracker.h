// Finds where a barrier is needed between dispatches that may overlap in time.
#pragma once

#include <cstddef>
#include <span>
#include <vector>

namespace quarrel::metal {

// Bytes [begin, end) of a buffer that a dispatch touches.
struct Access {
  const void* buffer;  // its identity
  std::size_t begin;
  std::size_t end;
  bool writes;
};

class HazardTracker {
 public:
  // Whether a dispatch with these accesses must wait for the dispatches since the last barrier: it
  // reads what one of them writes, or writes what one of them touches. If so, the caller puts a
  // barrier before it, and only this dispatch counts from there on.
  bool add(std::span<const Access> accesses);
  void clear() { pending_.clear(); }

 private:
  bool conflicts(const Access& access) const;
  std::vector<Access> pending_;
};

}  // namespace quarrel::metal
