// Free space as runs of consecutive blocks, merged when they touch.
#pragma once

#include <cstddef>
#include <map>
#include <optional>

namespace quarrel {

class FreeRuns {
 public:
  explicit FreeRuns(std::size_t n_blocks);

  // The first block of the lowest run with room for n_blocks, or nothing.
  std::optional<std::size_t> allocate(std::size_t n_blocks);
  void release(std::size_t first, std::size_t n_blocks);

  std::size_t n_free() const { return n_free_; }
  const std::map<std::size_t, std::size_t>& runs() const { return runs_; }  // first -> length

 private:
  std::map<std::size_t, std::size_t> runs_;
  std::size_t n_free_;
};

}  // namespace quarrel
