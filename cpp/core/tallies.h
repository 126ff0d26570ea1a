// Counts of things that happen: written by whoever sees them, read by anybody, and nobody waits.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

namespace quarrel {

// Counts upwards.
class Counter {
 public:
  void add(std::uint64_t n) { n_.fetch_add(n, std::memory_order_relaxed); }
  std::uint64_t value() const { return n_.load(std::memory_order_relaxed); }

 private:
  std::atomic<std::uint64_t> n_{0};
};

// How often values fell into each bucket.
class Histogram {
 public:
  // Inclusive upper bounds, ascending; a last bucket without a bound is added.
  // Throws InvalidArgument where they do not ascend.
  explicit Histogram(std::vector<double> bounds);

  void observe(double value);

  const std::vector<double>& bounds() const { return bounds_; }
  // One per bucket, the last one of values above all bounds. A value that is being observed
  // meanwhile may be missing from them or from the sum.
  std::vector<std::uint64_t> counts() const;
  double sum() const { return sum_.load(std::memory_order_relaxed); }

 private:
  std::vector<double> bounds_;
  std::unique_ptr<std::atomic<std::uint64_t>[]> counts_;
  std::atomic<double> sum_{0.0};
};

}  // namespace quarrel
