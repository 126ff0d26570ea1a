// Free space as runs of consecutive blocks, merged when they touch.
#pragma once

#include <cstddef>
#include <optional>
#include <vector>

namespace quarrel {

// Allocates once, when it is made.
class FreeRuns {
 public:
  struct Run {
    std::size_t first;
    std::size_t length;
  };

  explicit FreeRuns(std::size_t n_blocks);

  static std::size_t n_bytes(std::size_t n_blocks) { return most_runs(n_blocks) * sizeof(Run); }

  // The first block of the lowest run with room for n_blocks, or nothing.
  std::optional<std::size_t> allocate(std::size_t n_blocks);
  void release(std::size_t first, std::size_t n_blocks);

  std::size_t n_free() const { return n_free_; }
  const std::vector<Run>& runs() const { return runs_; }  // in rising order

 private:
  // Runs that do not touch have used blocks between them.
  static std::size_t most_runs(std::size_t n_blocks) { return n_blocks / 2 + 1; }

  std::vector<Run> runs_;
  std::size_t n_free_;
};

}  // namespace quarrel
