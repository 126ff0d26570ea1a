#include "metal/fusion.h"

#include <variant>

namespace quarrel::metal {
namespace {

bool is_add_and_norm(const Program& program, const Op& add, const Op& norm) {
  const auto* rms_norm = std::get_if<RmsNormOp>(&norm.kind);
  return rms_norm != nullptr && std::holds_alternative<AddOp>(add.kind) &&
         norm.inputs.front().index == add.output->index &&
         program.weight(rms_norm->weight).n_cols == program.value(*add.output).width;
}

}  // namespace

std::vector<std::size_t> fused_stages(const Program& program) {
  std::vector<std::size_t> stages;
  std::size_t stage = 0;
  for (std::size_t i = 0; i < program.ops.size(); ++i) {
    // Pairs cannot overlap: a pair's second op is a norm, its first is not.
    if (i > 0 && !is_add_and_norm(program, program.ops[i - 1], program.ops[i])) ++stage;
    stages.push_back(stage);
  }
  return stages;
}

}  // namespace quarrel::metal
