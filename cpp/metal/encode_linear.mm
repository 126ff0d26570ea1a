#import "metal/op_encoder.h"

#include <string>

#include "shaders/params.h"

namespace quarrel::metal {
namespace {

// Tokens that share a reading of the weights. It changes nothing but speed.
constexpr std::uint32_t kTokensPerPass = 4;

class LinearEncoder final : public OpEncoder {
 public:
  LinearEncoder(const LinearOp& op, const Op& io, const Setup& setup)
      : setup_(setup),
        op_(op),
        input_(io.inputs.front()),
        output_(*io.output),
        decode_(pipeline("linear_decode", {{kLinearTokensPerPass, kTokensPerPass}})),
        prefill_(pipeline("linear_prefill", {})) {}

  void encode(const Step& step) override {
    const RowSpace space = setup_.space(output_);
    const std::size_t n_out = setup_.width(output_);
    if (const RowRange rows = step.decodes(space); rows.n > 0) {
      bind(step, decode_, rows);
      step.encoder.dispatch({ceil_div(rows.n, kTokensPerPass), ceil_div(n_out, kLinearDecodeRows)},
                            {kLinearThreads});
    }
    if (const RowRange rows = step.prefills(space); rows.n > 0) {
      bind(step, prefill_, rows);
      step.encoder.dispatch(
          {ceil_div(rows.n, kLinearPrefillTokens), ceil_div(n_out, kLinearPrefillRows)},
          {kLinearThreads});
    }
  }

 private:
  const Pipeline& pipeline(std::string_view stem, std::vector<FunctionConstant> constants) const {
    constants.push_back({kLinearHasBias, op_.bias.has_value()});
    constants.push_back({kLinearHasResidual, false});
    return setup_.pipeline(stem, kernel_name(stem, setup_.program.weight(op_.weight).dtype),
                           constants);
  }

  void bind(const Step& step, const Pipeline& pipeline, RowRange rows) const {
    const Weight& weight = setup_.program.weight(op_.weight);
    const BufferRange& weights = setup_.weights[op_.weight];
    step.encoder.use(pipeline)
        .read(kLinearX, setup_.values.rows(input_, rows.first, rows.n))
        .read(kLinearWeight, weights)
        .read(kLinearBias, op_.bias ? setup_.weights[*op_.bias] : weights)
        .read(kLinearResidual, weights)  // not used
        .write(kLinearOut, setup_.values.rows(output_, rows.first, rows.n))
        .read(kLinearTokens, setup_.arrays.row_numbers.part(0, rows.n * sizeof(std::uint32_t)))
        .params(kLinearParams, LinearParams{static_cast<quarrel_uint>(rows.n),
                                            static_cast<quarrel_uint>(weight.n_rows),
                                            static_cast<quarrel_uint>(weight.n_cols), 0.0f});
  }

  const Setup& setup_;
  LinearOp op_;
  ValueId input_;
  ValueId output_;
  const Pipeline& decode_;
  const Pipeline& prefill_;
};

}  // namespace

OpEncoderPtr make_encoder(const LinearOp& op, const Op& io, const Setup& setup) {
  return std::make_unique<LinearEncoder>(op, io, setup);
}

}  // namespace quarrel::metal
