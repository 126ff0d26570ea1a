// Encodes the dispatches of one step into one command buffer.
#pragma once

#import <Metal/Metal.h>

#include <cstddef>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "core/span_log.h"
#include "metal/context.h"
#include "metal/hazard_tracker.h"
#include "program/step_profile.h"

namespace quarrel::metal {

// Threadgroups of a grid, or threads of a threadgroup.
struct Extent {
  std::size_t x = 1;
  std::size_t y = 1;
  std::size_t z = 1;
};

// Dispatches may run side by side; where one touches bytes that another since the last barrier
// writes, a barrier goes between them. Lives as long as an executable; begin() starts a step.
class StepEncoder {
 public:
  explicit StepEncoder(Context& context) : context_(context) {}

  void begin(StepPhase phase);

  // While profiling every dispatch is a command buffer of its own, which makes steps slower. Counts
  // from zero when switched on.
  void set_profiling(bool on);
  std::vector<StageTime> kernel_times() const;
  // Track 0 of the log gets the step on the host, track 1 the kernels on the GPU.
  void set_trace(std::shared_ptr<SpanLog> log) { trace_ = std::move(log); }

  // One dispatch: a pipeline, its arguments, then dispatch().
  StepEncoder& use(const Pipeline& pipeline);
  StepEncoder& read(int index, const BufferRange& range) { return bind(index, range, false); }
  StepEncoder& write(int index, const BufferRange& range) { return bind(index, range, true); }
  template <class Params>
  StepEncoder& params(int index, const Params& value) {
    [encoder_ setBytes:&value length:sizeof value atIndex:static_cast<NSUInteger>(index)];
    return *this;
  }
  StepEncoder& threadgroup_bytes(int index, std::size_t n_bytes);
  void dispatch(Extent threadgroups, Extent threads);

  // Runs what was encoded and waits for it. Throws Error if the GPU failed; the device can be used
  // again.
  void run();
  // Drops what was encoded.
  void abandon();

 private:
  struct Timed {  // a dispatch by itself, while profiling
    id<MTLCommandBuffer> commands;
    const Pipeline* pipeline;
  };
  StepEncoder& bind(int index, const BufferRange& range, bool writes);
  void set_threadgroup_length(int index, std::size_t n_bytes);
  void open();
  void commit_one();
  void check(id<MTLCommandBuffer> commands);
  void count(const std::string& kernel, double seconds);
  void trace(std::int64_t waiting_since_ns, std::int64_t ready_ns, double gpu_ready_seconds);

  Context& context_;
  StepPhase phase_ = StepPhase::Decode;
  bool is_profiling_ = false;
  mutable std::mutex times_mutex_;  // times are read from other threads too
  std::map<std::pair<StepPhase, std::string>, StageTime> times_;
  HazardTracker hazards_;
  std::vector<Access> accesses_;  // of the dispatch that is being put together
  std::vector<int> shared_;       // threadgroup arguments of the dispatch
  std::vector<Timed> timed_;
  std::shared_ptr<SpanLog> trace_;
  std::int64_t begun_ns_ = 0;
  const Pipeline* pipeline_ = nullptr;
  id<MTLCommandBuffer> commands_ = nil;
  id<MTLComputeCommandEncoder> encoder_ = nil;
};

}  // namespace quarrel::metal
