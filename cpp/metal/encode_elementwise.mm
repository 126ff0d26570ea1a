#import "metal/op_encoder.h"

#include <string>

#include "shaders/params.h"

namespace quarrel::metal {
namespace {

// Every kernel of the family: one or two inputs, an output, a number.
class ElementwiseEncoder final : public OpEncoder {
 public:
  ElementwiseEncoder(const std::string& kernel, float factor, const Op& io, const Setup& setup)
      : setup_(setup),
        factor_(factor),
        inputs_(io.inputs),
        output_(*io.output),
        pipeline_(setup.pipeline("elementwise", kernel)) {}

  void encode(const Step& step) override {
    const RowRange rows = step.both(setup_.space(output_));
    if (rows.n == 0) return;
    const std::size_t n = rows.n * setup_.width(output_);
    const auto place = [&](ValueId id) { return setup_.values.rows(id, rows.first, rows.n); };
    step.encoder.use(pipeline_).read(kElementwiseX, place(inputs_[0]));
    if (inputs_.size() > 1) step.encoder.read(kElementwiseY, place(inputs_[1]));
    const std::size_t threads = pipeline_.max_threads(256);
    step.encoder.write(kElementwiseOut, place(output_))
        .params(kElementwiseParams, ElementwiseParams{static_cast<quarrel_uint>(n), factor_})
        .dispatch({ceil_div(ceil_div(n, 4), threads)}, {threads});
  }

 private:
  const Setup& setup_;
  float factor_;
  std::vector<ValueId> inputs_;
  ValueId output_;
  const Pipeline& pipeline_;
};

OpEncoderPtr make(const std::string& kernel, float factor, const Op& io, const Setup& setup) {
  return std::make_unique<ElementwiseEncoder>(kernel, factor, io, setup);
}

}  // namespace

OpEncoderPtr make_encoder(const SiluMulOp&, const Op& io, const Setup& setup) {
  return make("silu_mul", 0.0f, io, setup);
}
OpEncoderPtr make_encoder(const GeluMulOp&, const Op& io, const Setup& setup) {
  return make("gelu_mul", 0.0f, io, setup);
}
OpEncoderPtr make_encoder(const AddOp& op, const Op& io, const Setup& setup) {
  return make("add", op.scale, io, setup);
}
OpEncoderPtr make_encoder(const ScaleOp& op, const Op& io, const Setup& setup) {
  return make("scale", op.factor, io, setup);
}
OpEncoderPtr make_encoder(const SoftcapOp& op, const Op& io, const Setup& setup) {
  return make("softcap", op.cap, io, setup);
}

}  // namespace quarrel::metal
