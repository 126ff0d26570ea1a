// What the parts of one Metal device share: GPU, queue, pipelines, what was measured.
#pragma once

#import <Metal/Metal.h>

#include <string>

#include "metal/metal_device.h"
#include "metal/pipeline_cache.h"
#include "metal/shared_buffer.h"

namespace quarrel::metal {

class Context {
 public:
  explicit Context(const MetalOptions& options);

  id<MTLDevice> gpu() const { return gpu_; }
  PipelineCache& pipelines() { return pipelines_; }
  SharedBuffer allocate(MemoryLedger& ledger, MemoryKind kind, std::size_t n_bytes) const {
    return SharedBuffer(gpu_, ledger, kind, n_bytes);
  }

  id<MTLCommandBuffer> new_command_buffer();
  // After a failure: a queue whose commands caused faults may be refused service by the system.
  void renew_queue();

  double step_seconds = 0.0;  // GPU time of the last step

  // Frame capture: what capture_next_step asked for is begun with the next step.
  void request_capture(const std::string& file) { capture_file_ = file; }
  void begin_capture();
  void end_capture();

 private:
  id<MTLDevice> gpu_;
  id<MTLCommandQueue> queue_;
  PipelineCache pipelines_;
  std::string capture_file_;
};

}  // namespace quarrel::metal
