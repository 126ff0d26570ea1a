// The Metal GPU behind the Device interface. Plain C++: Objective-C stays in the .mm files.
#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "program/device.h"

namespace quarrel::metal {

struct MetalOptions {
  // Where compiled pipelines are kept from one process to the next; empty: nowhere.
  std::string archive_folder;
  // Where shaders compiled at build time lie, one <stem>.metallib each; without one, and where it
  // is empty, the system compiles the source that is embedded here.
  std::string metallib_folder;
};

class Context;

// Results: the bits of a row depend on its phase (decode or prefill) and on its own sequence, not
// on the other rows of a step, on how a prompt was cut, nor on where the cache put its blocks.
class MetalDevice : public Device {
 public:
  // Whether this build has Metal and the system a GPU for it.
  static bool is_available();

  // Throws Error where there is none.
  explicit MetalDevice(const MetalOptions& options);
  ~MetalDevice() override;

  std::string_view name() const override { return "metal"; }
  std::string gpu_name() const;
  // What the system advises a process to keep in GPU memory; allocations beyond it are refused.
  std::size_t recommended_bytes() const;
  std::size_t allocated_bytes() const;

  std::unique_ptr<Executable> compile(std::shared_ptr<const Program> program,
                                      const StepLimits& limits,
                                      std::shared_ptr<MemoryLedger> ledger) override;
  MemoryNeeds memory_needs(const Program& program, const StepLimits& limits) const override;
  std::unique_ptr<KVStorage> allocate_kv(const Program& program, const KVLayout& layout,
                                         MemoryLedger& ledger) override;
  std::vector<std::size_t> kv_block_bytes(const Program& program, std::size_t block_size,
                                          DType k_dtype, DType v_dtype) const override;

  // GPU time of the last step.
  double step_seconds() const;
  // The next step is recorded to this .gputrace file, which Xcode opens.
  void capture_next_step(const std::string& file);

 private:
  std::shared_ptr<Context> context_;
};

}  // namespace quarrel::metal
