#import "metal/op_encoder.h"

#include <optional>
#include <string>

#include "metal/decode_pipelines.h"
#include "shaders/params.h"

namespace quarrel::metal {
namespace {

// What a layer's result is added to: residual + scale * result.
struct Residual {
  ValueId value;
  float scale;
};

class LinearEncoder final : public OpEncoder {
 public:
  LinearEncoder(const Op& linear, ValueId output, std::optional<Residual> residual,
                const Setup& setup)
      : setup_(setup),
        op_(std::get<LinearOp>(linear.kind)),
        residual_(residual),
        input_(linear.inputs.front()),
        output_(output),
        decode_([&](std::uint32_t tokens_per_pass) -> const Pipeline& {
          return pipeline("linear_decode", {{kLinearTokensPerPass, tokens_per_pass}});
        }),
        prefill_(pipeline("linear_prefill", {})) {}

  void encode(const Step& step) override {
    const RowSpace space = setup_.space(output_);
    const std::size_t n_out = setup_.width(output_);
    if (const RowRange rows = step.decodes(space); rows.n > 0) {
      bind(step, decode_.of(rows.n), rows);
      step.encoder.dispatch({decode_.n_passes(rows.n), ceil_div(n_out, kLinearDecodeRows)},
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
    constants.push_back({kLinearHasResidual, residual_.has_value()});
    return setup_.pipeline(stem, kernel_name(stem, setup_.program.weight(op_.weight).dtype),
                           constants);
  }

  void bind(const Step& step, const Pipeline& pipeline, RowRange rows) const {
    const Weight& weight = setup_.program.weight(op_.weight);
    const BufferRange& weights = setup_.weights[op_.weight];  // stands in where nothing is read
    step.encoder.use(pipeline)
        .read(kLinearX, setup_.values.rows(input_, rows.first, rows.n))
        .read(kLinearWeight, weights)
        .read(kLinearBias, op_.bias ? setup_.weights[*op_.bias] : weights)
        .read(kLinearResidual,
              residual_ ? setup_.values.rows(residual_->value, rows.first, rows.n) : weights)
        .write(kLinearOut, setup_.values.rows(output_, rows.first, rows.n))
        .read(kLinearTokens, setup_.arrays.row_numbers.part(0, rows.n * sizeof(std::uint32_t)))
        .params(kLinearParams, LinearParams{static_cast<quarrel_uint>(rows.n),
                                            static_cast<quarrel_uint>(weight.n_rows),
                                            static_cast<quarrel_uint>(weight.n_cols),
                                            residual_ ? residual_->scale : 0.0f});
  }

  const Setup& setup_;
  LinearOp op_;
  std::optional<Residual> residual_;
  ValueId input_;
  ValueId output_;
  DecodePipelines decode_;
  const Pipeline& prefill_;
};

}  // namespace

OpEncoderPtr make_encoder(const LinearOp&, const Op& io, const Setup& setup) {
  return std::make_unique<LinearEncoder>(io, *io.output, std::nullopt, setup);
}

OpEncoderPtr make_linear_add(const Op& linear, const Op& add, const Setup& setup) {
  const Residual residual{add.inputs[0], std::get<AddOp>(add.kind).scale};
  return std::make_unique<LinearEncoder>(linear, *add.output, residual, setup);
}

}  // namespace quarrel::metal
