// Replays a Program on the GPU: one command buffer per step.
#pragma once

#include <memory>
#include <optional>
#include <span>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "metal/best_tokens.h"
#include "metal/op_encoder.h"
#include "program/device.h"

namespace quarrel::metal {

class MetalExecutable final : public Executable {
 public:
  MetalExecutable(std::shared_ptr<const Program> program, const StepLimits& limits,
                  std::shared_ptr<Context> context, const std::shared_ptr<MemoryLedger>& ledger);

  StepMemory* step_memory() override { return &arrays_; }
  std::span<const float> run(const StepInputs& inputs, KVStorage& storage) override;
  BestTokens best_tokens() const override { return best_tokens_.result(); }
  void shrink() override;
  // Stages are kernels; their time is the GPU's.
  void set_profiling(bool on) override { encoder_.set_profiling(on); }
  std::vector<StageTime> stage_times() const override { return encoder_.kernel_times(); }
  void set_trace(std::shared_ptr<SpanLog> log) override { encoder_.set_trace(std::move(log)); }
  std::vector<std::string> track_names() const override { return {"engine", "GPU"}; }

 private:
  void prepare(const KVLayout& layout);

  std::shared_ptr<const Program> program_;
  std::size_t max_tokens_;
  std::shared_ptr<Context> context_;
  WeightMap weights_;
  Activations values_;
  StepArrays arrays_;
  AttentionScratch attention_scratch_;
  Setup setup_;
  StepEncoder encoder_;
  std::vector<OpEncoderPtr> ops_;
  BestTokensEncoder best_tokens_;
  // Of the storage that the ops are prepared for: block size, types of K and V.
  std::optional<std::tuple<std::size_t, DType, DType>> prepared_for_;
};

// What compile() charges.
MemoryNeeds memory_needs(const Program& program, const StepLimits& limits);

}  // namespace quarrel::metal
