// Encodes the dispatches of one step into one command buffer.
#pragma once

#import <Metal/Metal.h>

#include <cstddef>
#include <map>
#include <string>
#include <utility>
#include <vector>

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
  void open();
  void commit_one();
  void check(id<MTLCommandBuffer> commands);
  void count(const std::string& kernel, double seconds);

  Context& context_;
  StepPhase phase_ = StepPhase::Decode;
  bool is_profiling_ = false;
  std::map<std::pair<StepPhase, std::string>, StageTime> times_;
  HazardTracker hazards_;
  std::vector<Access> accesses_;  // of the dispatch that is being put together
  std::vector<Timed> timed_;
  const Pipeline* pipeline_ = nullptr;
  id<MTLCommandBuffer> commands_ = nil;
  id<MTLComputeCommandEncoder> encoder_ = nil;
};

}  // namespace quarrel::metal
