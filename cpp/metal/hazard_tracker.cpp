#include "metal/hazard_tracker.h"

#include <algorithm>

namespace quarrel::metal {

bool HazardTracker::conflicts(const Access& a) const {
  return std::ranges::any_of(pending_, [&](const Access& b) {
    return a.buffer == b.buffer && a.begin < b.end && b.begin < a.end && (a.writes || b.writes);
  });
}

bool HazardTracker::add(std::span<const Access> accesses) {
  const bool needs_barrier =
      std::ranges::any_of(accesses, [&](const Access& a) { return conflicts(a); });
  if (needs_barrier) pending_.clear();
  pending_.insert(pending_.end(), accesses.begin(), accesses.end());
  return needs_barrier;
}

}  // namespace quarrel::metal
