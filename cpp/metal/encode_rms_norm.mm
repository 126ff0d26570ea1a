#import "metal/op_encoder.h"

#include <algorithm>

#include "shaders/params.h"

namespace quarrel::metal {
namespace {

// Threads of a row's threadgroup. The order of its sum follows from them, so they depend on the
// row's length alone.
std::size_t row_threads(const Pipeline& pipeline, std::size_t n) {
  return std::min(ceil_div(n / 4, 32) * 32, pipeline.max_threads(256));
}

class RmsNormEncoder final : public OpEncoder {
 public:
  RmsNormEncoder(const RmsNormOp& op, const Op& io, const Setup& setup)
      : setup_(setup),
        op_(op),
        input_(io.inputs.front()),
        output_(*io.output),
        n_(setup.program.weight(op.weight).n_cols),
        pipeline_(setup.pipeline("rms_norm", "rms_norm")) {
    expect_multiple("rms_norm", n_, 4);
  }

  void encode(const Step& step) override {
    const std::size_t n_rows = step.n_rows(setup_.space(input_));
    if (n_rows == 0) return;
    const std::size_t groups = setup_.width(input_) / n_;  // heads of a row
    step.encoder.use(pipeline_)
        .read(kRmsNormX, setup_.values.rows(input_, 0, n_rows))
        .read(kRmsNormWeight, setup_.weights[op_.weight])
        .write(kRmsNormOut, setup_.values.rows(output_, 0, n_rows))
        .params(kRmsNormParams, RmsNormParams{static_cast<quarrel_uint>(n_), op_.eps})
        .dispatch({n_rows * groups}, {row_threads(pipeline_, n_)});
  }

 private:
  const Setup& setup_;
  RmsNormOp op_;
  ValueId input_;
  ValueId output_;
  std::size_t n_;
  const Pipeline& pipeline_;
};

class AddRmsNormEncoder final : public OpEncoder {
 public:
  AddRmsNormEncoder(const Op& add, const Op& norm, const Setup& setup)
      : setup_(setup),
        scale_(std::get<AddOp>(add.kind).scale),
        norm_(std::get<RmsNormOp>(norm.kind)),
        x_(add.inputs[0]),
        y_(add.inputs[1]),
        sum_(*add.output),
        output_(*norm.output),
        pipeline_(setup.pipeline("rms_norm", "add_rms_norm")) {
    expect_multiple("rms_norm", setup.width(sum_), 4);
  }

  void encode(const Step& step) override {
    const std::size_t n_rows = step.n_rows(setup_.space(sum_));
    if (n_rows == 0) return;
    const std::size_t n = setup_.width(sum_);
    step.encoder.use(pipeline_)
        .read(kAddRmsNormX, setup_.values.rows(x_, 0, n_rows))
        .read(kAddRmsNormY, setup_.values.rows(y_, 0, n_rows))
        .read(kAddRmsNormWeight, setup_.weights[norm_.weight])
        .write(kAddRmsNormSum, setup_.values.rows(sum_, 0, n_rows))
        .write(kAddRmsNormOut, setup_.values.rows(output_, 0, n_rows))
        .params(kAddRmsNormParams,
                AddRmsNormParams{static_cast<quarrel_uint>(n), norm_.eps, scale_})
        .dispatch({n_rows}, {row_threads(pipeline_, n)});
  }

 private:
  const Setup& setup_;
  float scale_;
  RmsNormOp norm_;
  ValueId x_;
  ValueId y_;
  ValueId sum_;
  ValueId output_;
  const Pipeline& pipeline_;
};

}  // namespace

OpEncoderPtr make_encoder(const RmsNormOp& op, const Op& io, const Setup& setup) {
  return std::make_unique<RmsNormEncoder>(op, io, setup);
}

OpEncoderPtr make_add_rms_norm(const Op& add, const Op& norm, const Setup& setup) {
  return std::make_unique<AddRmsNormEncoder>(add, norm, setup);
}

}  // namespace quarrel::metal
