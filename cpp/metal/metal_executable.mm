#import "metal/metal_executable.h"

#include <algorithm>
#include <string>
#include <utility>
#include <variant>

#include "core/error.h"
#include "metal/fusion.h"

namespace quarrel::metal {
namespace {

// Ends a step whatever happens in it.
class StepScope {
 public:
  StepScope(StepEncoder& encoder, Context& context, StepPhase phase)
      : encoder_(encoder), context_(context) {
    context_.begin_capture();
    encoder_.begin(phase);
  }
  ~StepScope() {
    encoder_.abandon();
    context_.end_capture();
  }

 private:
  StepEncoder& encoder_;
  Context& context_;
};

MemoryPlan plan(const Program& program) {
  return plan_memory(program, stage_of_op(fused_stages(program)));
}

OpEncoderPtr make_encoder_of(const FusedStage& stage, const Setup& setup) {
  const auto ops = std::span(setup.program.ops).subspan(stage.first, stage.n_ops);
  switch (stage.fusion) {
    case Fusion::AddRmsNorm:
      return make_add_rms_norm(ops[0], ops[1], setup);
    case Fusion::LinearAdd:
      return make_linear_add(ops[0], ops[1], setup);
    case Fusion::LinearGated:
      return make_linear_gated(ops[0], ops[1], ops[2], setup);
    case Fusion::None:
      break;
  }
  return std::visit([&](const auto& kind) { return make_encoder(kind, ops[0], setup); },
                    ops[0].kind);
}

std::size_t leading_decodes(const StepInputs& in) {
  const auto is_decode = [&](std::int32_t row) {
    return static_cast<std::size_t>(row) < in.n_decodes;
  };
  return static_cast<std::size_t>(std::ranges::find_if_not(in.selected_rows, is_decode) -
                                  in.selected_rows.begin());
}

}  // namespace

MemoryNeeds memory_needs(const Program& program, const StepLimits& limits) {
  return {program.weight_bytes(), Activations::planned_bytes(plan(program), limits) +
                                      StepArrays::planned_bytes(program, limits) +
                                      AttentionScratch::planned_bytes(program, limits) +
                                      BestTokensEncoder::planned_bytes(program, limits)};
}

MetalExecutable::MetalExecutable(std::shared_ptr<const Program> program, const StepLimits& limits,
                                 std::shared_ptr<Context> context,
                                 const std::shared_ptr<MemoryLedger>& ledger)
    : program_(std::move(program)),
      max_tokens_(limits.max_tokens),
      context_(std::move(context)),
      weights_(*program_, *context_, *ledger),
      values_(*program_, plan(*program_), limits, *context_, ledger),
      arrays_(*program_, limits, *context_, ledger),
      attention_scratch_(*program_, limits, *context_, ledger),
      setup_{*program_, *context_, weights_, values_, arrays_, attention_scratch_},
      encoder_(*context_),
      best_tokens_(setup_, limits, *ledger) {
  for (const FusedStage& stage : fused_stages(*program_))
    ops_.push_back(make_encoder_of(stage, setup_));
  context_->pipelines().save_archive();
}

void MetalExecutable::prepare(const KVLayout& layout) {
  const std::tuple wanted(layout.block_size, layout.k_dtype, layout.v_dtype);
  if (prepared_for_ == wanted) return;
  for (const auto& op : ops_) op->prepare(layout);
  context_->pipelines().save_archive();
  prepared_for_ = wanted;
}

std::span<const float> MetalExecutable::run(const StepInputs& inputs, KVStorage& storage) {
  if (inputs.n_tokens() > max_tokens_)
    throw InvalidArgument("[step] expected at most " + std::to_string(max_tokens_) +
                          " tokens, got " + std::to_string(inputs.n_tokens()));
  if (inputs.n_tokens() == 0) return {};
  @autoreleasepool {
    const auto& kv = static_cast<const MetalKVStorage&>(storage);
    prepare(kv.layout());
    values_.require_selected(inputs.selected_rows.size());
    attention_scratch_.require(inputs);
    arrays_.write(inputs);
    const StepScope scope(encoder_, *context_, inputs.phase());
    const Step step{inputs, kv, encoder_, leading_decodes(inputs)};
    for (const auto& op : ops_) op->encode(step);
    best_tokens_.encode(step);
    encoder_.run();
  }
  if (inputs.selected_rows.empty()) return {};
  return {values_.data(program_->logits),
          inputs.selected_rows.size() * program_->value(program_->logits).width};
}

void MetalExecutable::shrink() {
  values_.shrink();
  arrays_.shrink();
  attention_scratch_.shrink();
}

}  // namespace quarrel::metal
