// An operation that quarrel-bench knows.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "measure.h"
#include "options.h"
#include "program/device.h"

namespace quarrel::bench {

// One combination of the axes.
struct Case {
  std::string device;
  std::string isa;
  std::size_t n_threads;
  std::string cache;
  DType k_dtype;
  DType v_dtype;
  DType weight_dtype;
  std::size_t depth;
  std::size_t batch;
};

// What an operation runs on.
struct Setup {
  const Options& options;
  const Case& at;
  Device* device;  // null for operations without one
  std::shared_ptr<MemoryLedger> ledger;
};

// timing is of n_operations operations, each of which moves `bytes` and computes `flops`.
struct Performance {
  Timing timing;
  double n_operations;
  std::string_view unit;  // what one operation is
  double bytes = 0;       // 0: not a matter of bandwidth
  double flops = 0;
  std::uint64_t hash;  // of the result
};

// Distance from the reference and how far it may be.
struct Comparison {
  double error;
  double bound;
  std::uint64_t hash;
};

// The axes that make a difference to an operation; the others take their first value.
struct Axes {
  bool device = true;
  bool cache = false;
  bool kv_dtypes = false;
  bool weight_dtype = false;
  bool depth = false;
  bool batch = false;
};

// Functions throw Error where the combination is not supported.
struct OpSpec {
  std::string_view name;
  Axes axes;
  std::string (*shape)(const Options& options);
  void (*check)(const Setup& setup);  // cheap: nothing runs
  Performance (*measure)(const Setup& setup);
  Comparison (*compare)(const Setup& setup);
};

// One list per family.
std::span<const OpSpec> attention_ops();
std::span<const OpSpec> linear_ops();
std::span<const OpSpec> decode_step_ops();
std::span<const OpSpec> cache_ops();

}  // namespace quarrel::bench
