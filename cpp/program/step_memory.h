// Where the arrays of a step are assembled.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace quarrel {

struct StepShape {
  std::size_t n_tokens;
  std::size_t n_seqs;
  std::size_t n_selected;
  std::span<const std::size_t> max_blocks;  // [n_groups], columns of the block tables
};

// A device whose kernels read positions, slots and block tables hands out memory that they reach,
// so that nothing is copied.
class StepMemory {
 public:
  virtual ~StepMemory() = default;
  // Starts a step; the arrays of the last one are gone. Throws OutOfMemoryError.
  virtual void begin(const StepShape& shape) = 0;
  // The next array. All of a step together: positions, and the slots and block tables of each
  // group.
  virtual std::span<std::int32_t> take(std::size_t n) = 0;
};

// The host's own.
class HostStepMemory final : public StepMemory {
 public:
  void begin(const StepShape& shape) override {
    std::size_t n = shape.n_tokens;
    for (const std::size_t max_blocks : shape.max_blocks)
      n += shape.n_tokens + shape.n_seqs * max_blocks;
    if (values_.size() < n) values_.resize(n);
    next_ = 0;
  }
  std::span<std::int32_t> take(std::size_t n) override {
    const std::span<std::int32_t> array = std::span(values_).subspan(next_, n);
    next_ += n;
    return array;
  }

 private:
  std::vector<std::int32_t> values_;
  std::size_t next_ = 0;
};

}  // namespace quarrel
