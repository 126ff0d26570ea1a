#include "metal/fusion.h"

#include <span>
#include <variant>

namespace quarrel::metal {
namespace {

class Fuser {
 public:
  explicit Fuser(const Program& program) : program_(program), n_uses_(program.values.size(), 0) {
    for (const Op& op : program.ops)
      for (const ValueId in : op.inputs) ++n_uses_[static_cast<std::size_t>(in.index)];
    ++n_uses_[static_cast<std::size_t>(program.logits.index)];
  }

  FusedStage at(std::size_t first) const {
    const auto ops = std::span(program_.ops).subspan(first);
    if (ops.size() >= 3 && is_gated(ops[0], ops[1], ops[2])) return {Fusion::LinearGated, first, 3};
    if (ops.size() >= 2 && is_linear_and_add(ops[0], ops[1])) return {Fusion::LinearAdd, first, 2};
    if (ops.size() >= 2 && is_add_and_norm(ops[0], ops[1])) return {Fusion::AddRmsNorm, first, 2};
    return {Fusion::None, first, 1};
  }

 private:
  // Whether nobody but the next op wants an op's result, so that it need not be written.
  bool is_passing(const Op& op) const {
    return n_uses_[static_cast<std::size_t>(op.output->index)] == 1;
  }

  bool is_gated(const Op& gate, const Op& up, const Op& mul) const {
    const auto* first = std::get_if<LinearOp>(&gate.kind);
    const auto* second = std::get_if<LinearOp>(&up.kind);
    if (first == nullptr || second == nullptr) return false;
    if (!std::holds_alternative<SiluMulOp>(mul.kind) &&
        !std::holds_alternative<GeluMulOp>(mul.kind))
      return false;
    return !first->bias && !second->bias &&
           program_.weight(first->weight).dtype == program_.weight(second->weight).dtype &&
           gate.inputs[0].index == up.inputs[0].index &&
           mul.inputs[0].index == gate.output->index && mul.inputs[1].index == up.output->index &&
           is_passing(gate) && is_passing(up) &&
           program_.value(*gate.output).width % 4 == 0;  // rows behind the decodes stay aligned
  }

  bool is_linear_and_add(const Op& linear, const Op& add) const {
    return std::holds_alternative<LinearOp>(linear.kind) &&
           std::holds_alternative<AddOp>(add.kind) && add.inputs[1].index == linear.output->index &&
           add.inputs[0].index != linear.output->index &&
           // The sum may take its place, while the layer's other rows still read it.
           add.inputs[0].index != linear.inputs[0].index && is_passing(linear);
  }

  bool is_add_and_norm(const Op& add, const Op& norm) const {
    const auto* rms_norm = std::get_if<RmsNormOp>(&norm.kind);
    return rms_norm != nullptr && std::holds_alternative<AddOp>(add.kind) &&
           norm.inputs.front().index == add.output->index &&
           program_.weight(rms_norm->weight).n_cols == program_.value(*add.output).width;
  }

  const Program& program_;
  std::vector<std::size_t> n_uses_;  // of each value
};

}  // namespace

std::vector<FusedStage> fused_stages(const Program& program) {
  const Fuser fuser(program);
  std::vector<FusedStage> stages;
  for (std::size_t i = 0; i < program.ops.size(); i += stages.back().n_ops)
    stages.push_back(fuser.at(i));
  return stages;
}

std::vector<std::size_t> stage_of_op(const std::vector<FusedStage>& stages) {
  std::vector<std::size_t> numbers;
  for (std::size_t i = 0; i < stages.size(); ++i) numbers.insert(numbers.end(), stages[i].n_ops, i);
  return numbers;
}

}  // namespace quarrel::metal
