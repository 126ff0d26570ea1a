// Time, heap allocations and the machine's memory bandwidth.
#pragma once

#include <cstddef>
#include <functional>

#include "options.h"

namespace quarrel::bench {

// Of several measurements of the same work.
struct Timing {
  double seconds;      // median
  double noise;        // median distance from it, as a share of it
  double allocations;  // on the heap, median
  std::size_t n_measurements;
};

// Runs body once for warming up, then --repeat times or until --time-ms are spent; prepare() comes
// before each and is not counted.
Timing measure(const Options& options, const std::function<void()>& prepare,
               const std::function<void()>& body);

// Bytes per second that n_threads together read from memory, best of five passes.
double memory_bandwidth(std::size_t n_threads, std::size_t mebibytes);

}  // namespace quarrel::bench

// Every counted call goes through here: the one name that profilers need to know
// (callgrind --toggle-collect). Exported, so that a stripped binary keeps it.
extern "C" void quarrel_bench_measured(const std::function<void()>& body);
