#import "metal/op_encoder.h"

#include <variant>

#include "metal/decode_pipelines.h"
#include "shaders/params.h"

namespace quarrel::metal {
namespace {

// Decodes: one kernel, which leaves the two products in registers. Prefills: the three ops, since
// matrices of two weights and their sums do not fit a threadgroup.
class LinearGatedEncoder final : public OpEncoder {
 public:
  LinearGatedEncoder(const Op& gate, const Op& up, const Op& mul, const Setup& setup)
      : setup_(setup),
        gate_(std::get<LinearOp>(gate.kind).weight),
        up_(std::get<LinearOp>(up.kind).weight),
        input_(gate.inputs.front()),
        output_(*mul.output),
        decode_([&](std::uint32_t tokens_per_pass) -> const Pipeline& {
          const auto activation = static_cast<std::uint32_t>(
              std::holds_alternative<SiluMulOp>(mul.kind) ? kActivationSilu : kActivationGelu);
          return setup.pipeline(
              "linear_gated", kernel_name("linear_gated", setup.program.weight(gate_).dtype),
              {{kLinearActivation, activation}, {kLinearTokensPerPass, tokens_per_pass}});
        }) {
    for (const Op* op : {&gate, &up, &mul})
      ops_.push_back(
          std::visit([&](const auto& kind) { return make_encoder(kind, *op, setup); }, op->kind));
  }

  void encode(const Step& step) override {
    const RowSpace space = setup_.space(output_);
    if (const RowRange rows = step.decodes(space); rows.n > 0) encode_decodes(step, rows);
    if (step.prefills(space).n == 0) return;
    for (const auto& op : ops_) op->encode(step.only_prefills());
  }

 private:
  void encode_decodes(const Step& step, RowRange rows) const {
    const Weight& weight = setup_.program.weight(gate_);
    step.encoder.use(decode_.of(rows.n))
        .read(kGatedX, setup_.values.rows(input_, rows.first, rows.n))
        .read(kGatedGate, setup_.weights[gate_])
        .read(kGatedUp, setup_.weights[up_])
        .write(kGatedOut, setup_.values.rows(output_, rows.first, rows.n))
        .read(kGatedTokens, setup_.arrays.row_numbers.part(0, rows.n * sizeof(std::uint32_t)))
        .params(kGatedParams, LinearParams{static_cast<quarrel_uint>(rows.n),
                                           static_cast<quarrel_uint>(weight.n_rows),
                                           static_cast<quarrel_uint>(weight.n_cols), 0.0f})
        .dispatch({decode_.n_passes(rows.n), ceil_div(weight.n_rows, kLinearDecodeRows)},
                  {kLinearThreads});
  }

  const Setup& setup_;
  WeightId gate_;
  WeightId up_;
  ValueId input_;
  ValueId output_;
  DecodePipelines decode_;
  std::vector<OpEncoderPtr> ops_;  // gate, up, activation
};

}  // namespace

OpEncoderPtr make_linear_gated(const Op& gate, const Op& up, const Op& mul, const Setup& setup) {
  return std::make_unique<LinearGatedEncoder>(gate, up, mul, setup);
}

}  // namespace quarrel::metal
