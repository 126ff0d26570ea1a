#import "metal/step_encoder.h"

#include <algorithm>

#include "core/error.h"
#include "metal/objc_text.h"

namespace quarrel::metal {

void StepEncoder::begin(StepPhase phase) {
  phase_ = phase;
  hazards_.clear();
  accesses_.clear();
  shared_.clear();
  timed_.clear();
  if (trace_) begun_ns_ = SpanLog::now_ns();
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
  set_threadgroup_length(index, (n_bytes + 15) / 16 * 16);  // a rule of the API
  shared_.push_back(index);
  return *this;
}

void StepEncoder::set_threadgroup_length(int index, std::size_t n_bytes) {
  [encoder_ setThreadgroupMemoryLength:n_bytes atIndex:static_cast<NSUInteger>(index)];
}

void StepEncoder::dispatch(Extent threadgroups, Extent threads) {
  if (hazards_.add(accesses_)) [encoder_ memoryBarrierWithScope:MTLBarrierScopeBuffers];
  accesses_.clear();
  [encoder_ dispatchThreadgroups:MTLSizeMake(threadgroups.x, threadgroups.y, threadgroups.z)
           threadsPerThreadgroup:MTLSizeMake(threads.x, threads.y, threads.z)];
  // An encoder keeps lengths, and the next kernel would have to fit beside them.
  for (int index : shared_) set_threadgroup_length(index, 0);
  shared_.clear();
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
  const std::lock_guard lock(times_mutex_);
  if (on) times_.clear();
  is_profiling_ = on;
}

void StepEncoder::count(const std::string& kernel, double seconds) {
  const std::lock_guard lock(times_mutex_);
  StageTime& time =
      times_.try_emplace({phase_, kernel}, StageTime{kernel, phase_, 0, 0.0}).first->second;
  ++time.n_runs;
  time.seconds += seconds;
}

std::vector<StageTime> StepEncoder::kernel_times() const {
  const std::lock_guard lock(times_mutex_);
  std::vector<StageTime> times;
  for (const auto& [key, time] : times_) times.push_back(time);
  return times;
}

// The GPU has a clock of its own; the end of its last command is when the host's wait was over.
void StepEncoder::trace(std::int64_t waiting_since_ns, std::int64_t ready_ns,
                        double gpu_ready_seconds) {
  const auto host_ns = [&](double gpu_seconds) {
    return ready_ns - static_cast<std::int64_t>((gpu_ready_seconds - gpu_seconds) * 1e9);
  };
  trace_->record(0, {begun_ns_, waiting_since_ns, trace_->intern("encode"), 0});
  trace_->record(0, {waiting_since_ns, ready_ns, trace_->intern("wait"), 0});
  std::int64_t last_ns = begun_ns_;  // neighbours may overlap a little; tracks must not
  for (const Timed& timed : timed_) {
    const std::int64_t start = std::max(host_ns(timed.commands.GPUStartTime), last_ns);
    last_ns = std::max(host_ns(timed.commands.GPUEndTime), start);
    trace_->record(1, {start, last_ns, trace_->intern(timed.pipeline->name), 0});
  }
}

void StepEncoder::run() {
  commit_one();
  const std::int64_t waiting_since = trace_ ? SpanLog::now_ns() : 0;
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
  if (trace_) trace(waiting_since, SpanLog::now_ns(), last.GPUEndTime);
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
