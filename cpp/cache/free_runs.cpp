#include "cache/free_runs.h"

#include <iterator>

namespace quarrel {

FreeRuns::FreeRuns(std::size_t n_blocks) : n_free_(n_blocks) {
  if (n_blocks > 0) runs_.emplace(0, n_blocks);
}

std::optional<std::size_t> FreeRuns::allocate(std::size_t n_blocks) {
  for (auto run = runs_.begin(); run != runs_.end(); ++run) {
    const auto [first, length] = *run;
    if (length < n_blocks) continue;
    runs_.erase(run);
    if (length > n_blocks) runs_.emplace(first + n_blocks, length - n_blocks);
    n_free_ -= n_blocks;
    return first;
  }
  return std::nullopt;
}

void FreeRuns::release(std::size_t first, std::size_t n_blocks) {
  n_free_ += n_blocks;
  auto next = runs_.lower_bound(first);
  if (next != runs_.begin()) {
    const auto previous = std::prev(next);
    if (previous->first + previous->second == first) {
      first = previous->first;
      n_blocks += previous->second;
      runs_.erase(previous);
    }
  }
  if (next != runs_.end() && first + n_blocks == next->first) {
    n_blocks += next->second;
    runs_.erase(next);
  }
  runs_.emplace(first, n_blocks);
}

}  // namespace quarrel
