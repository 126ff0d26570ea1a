#import "metal/op_encoder.h"

#include <algorithm>

#include "shaders/params.h"

namespace quarrel::metal {
namespace {

class SelectRowsEncoder final : public OpEncoder {
 public:
  SelectRowsEncoder(const Op& io, const Setup& setup)
      : setup_(setup),
        input_(io.inputs.front()),
        output_(*io.output),
        pipeline_(setup.pipeline("select_rows", "select_rows")) {
    expect_multiple("select_rows", setup.width(input_), 4);
  }

  void encode(const Step& step) override {
    const std::size_t n = step.n_rows(RowSpace::Selected);
    if (n == 0) return;
    const std::size_t n4 = setup_.width(input_) / 4;
    const std::size_t threads = std::min<std::size_t>(n4, pipeline_.max_threads(256));
    step.encoder.use(pipeline_)
        .read(kSelectRowsX, setup_.values.rows(input_, 0, step.n_rows(RowSpace::Tokens)))
        .read(kSelectRowsRows, setup_.arrays.selected_rows)
        .write(kSelectRowsOut, setup_.values.rows(output_, 0, n))
        .params(kSelectRowsParams,
                SelectRowsParams{static_cast<quarrel_uint>(setup_.width(input_))})
        .dispatch({ceil_div(n4, threads), n}, {threads});
  }

 private:
  const Setup& setup_;
  ValueId input_;
  ValueId output_;
  const Pipeline& pipeline_;
};

}  // namespace

OpEncoderPtr make_encoder(const SelectRowsOp&, const Op& io, const Setup& setup) {
  return std::make_unique<SelectRowsEncoder>(io, setup);
}

}  // namespace quarrel::metal
