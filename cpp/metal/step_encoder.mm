#import "metal/step_encoder.h"

#include "core/error.h"
#include "metal/objc_text.h"

namespace quarrel::metal {

void StepEncoder::begin(StepPhase phase) {
  phase_ = phase;
  hazards_.clear();
  accesses_.clear();
  timed_.clear();
  open();
}

void StepEncoder::open() {
  commands_ = context_.new_command_buffer();
  encoder_ = [commands_ computeCommandEncoderWithDispatchType:MTLDispatchTypeConcurrent];
  if (encoder_ == nil) throw Error("[metal] the system gives no encoder; try again");
}

StepEncoder& StepEncoder::use(const Pipeline& pipeline) {
  pipeline_ = &pipeline;
  [encoder_ setComputePipelineState:pipeline.state];
  return *this;
}

StepEncoder& StepEncoder::bind(int index, const BufferRange& range, bool writes) {
  [encoder_ setBuffer:range.buffer offset:range.offset atIndex:static_cast<NSUInteger>(index)];
  accesses_.push_back(
      {(__bridge const void*)range.buffer, range.offset, range.offset + range.n_bytes, writes});
  return *this;
}

StepEncoder& StepEncoder::threadgroup_bytes(int index, std::size_t n_bytes) {
  const std::size_t length = (n_bytes + 15) / 16 * 16;  // a rule of the API
  [encoder_ setThreadgroupMemoryLength:length atIndex:static_cast<NSUInteger>(index)];
  return *this;
}

void StepEncoder::dispatch(Extent threadgroups, Extent threads) {
  if (hazards_.add(accesses_)) [encoder_ memoryBarrierWithScope:MTLBarrierScopeBuffers];
  accesses_.clear();
  [encoder_ dispatchThreadgroups:MTLSizeMake(threadgroups.x, threadgroups.y, threadgroups.z)
           threadsPerThreadgroup:MTLSizeMake(threads.x, threads.y, threads.z)];
  if (!is_profiling_) return;
  timed_.push_back({commands_, pipeline_});
  commit_one();
  open();
  hazards_.clear();  // command buffers of a queue run one after the other
}

void StepEncoder::commit_one() {
  [encoder_ endEncoding];
  encoder_ = nil;
  [commands_ commit];
}

void StepEncoder::check(id<MTLCommandBuffer> commands) {
  [commands waitUntilCompleted];
  if (commands.status != MTLCommandBufferStatusError) return;
  const std::string reason = message_of(commands.error);
  context_.renew_queue();
  throw Error("[metal] the GPU failed (" + reason +
              "); the requests of this step ended with it, later ones can be computed");
}

void StepEncoder::set_profiling(bool on) {
  if (on) times_.clear();
  is_profiling_ = on;
}

void StepEncoder::count(const std::string& kernel, double seconds) {
  StageTime& time =
      times_.try_emplace({phase_, kernel}, StageTime{kernel, phase_, 0, 0.0}).first->second;
  ++time.n_runs;
  time.seconds += seconds;
}

std::vector<StageTime> StepEncoder::kernel_times() const {
  std::vector<StageTime> times;
  for (const auto& [key, time] : times_) times.push_back(time);
  return times;
}

void StepEncoder::run() {
  commit_one();
  id<MTLCommandBuffer> last = commands_;
  commands_ = nil;
  check(last);
  double seconds = last.GPUEndTime - last.GPUStartTime;
  for (const Timed& timed : timed_) {
    check(timed.commands);
    const double taken = timed.commands.GPUEndTime - timed.commands.GPUStartTime;
    count(timed.pipeline->name, taken);
    seconds += taken;
  }
  timed_.clear();
  context_.step_seconds = seconds;
}

void StepEncoder::abandon() {
  if (encoder_ != nil) [encoder_ endEncoding];
  encoder_ = nil;
  commands_ = nil;
  timed_.clear();
}

}  // namespace quarrel::metal
