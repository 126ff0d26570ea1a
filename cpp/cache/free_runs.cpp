#include "cache/free_runs.h"

#include <algorithm>
#include <iterator>

namespace quarrel {

FreeRuns::FreeRuns(std::size_t n_blocks) : n_free_(n_blocks) {
  runs_.reserve(most_runs(n_blocks));
  if (n_blocks > 0) runs_.push_back({0, n_blocks});
}

std::optional<std::size_t> FreeRuns::allocate(std::size_t n_blocks) {
  for (auto run = runs_.begin(); run != runs_.end(); ++run) {
    if (run->length < n_blocks) continue;
    const std::size_t first = run->first;
    run->first += n_blocks;
    run->length -= n_blocks;
    if (run->length == 0) runs_.erase(run);
    n_free_ -= n_blocks;
    return first;
  }
  return std::nullopt;
}

void FreeRuns::release(std::size_t first, std::size_t n_blocks) {
  if (n_blocks == 0) return;
  n_free_ += n_blocks;
  const auto next = std::ranges::lower_bound(runs_, first, {}, &Run::first);
  const bool joins_next = next != runs_.end() && first + n_blocks == next->first;
  if (next != runs_.begin()) {
    const auto previous = std::prev(next);
    if (previous->first + previous->length == first) {
      previous->length += n_blocks + (joins_next ? next->length : 0);
      if (joins_next) runs_.erase(next);
      return;
    }
  }
  if (joins_next) {
    next->first = first;
    next->length += n_blocks;
  } else {
    runs_.insert(next, {first, n_blocks});
  }
}

}  // namespace quarrel
