#import "metal/op_encoder.h"

#include <algorithm>

#include "shaders/params.h"

namespace quarrel::metal {
namespace {

class RopeEncoder final : public OpEncoder {
 public:
  RopeEncoder(const RopeOp& op, const Op& io, const Setup& setup)
      : setup_(setup),
        table_(static_cast<std::size_t>(op.table.index)),
        input_(io.inputs.front()),
        output_(*io.output),
        params_{static_cast<quarrel_uint>(setup.width(*io.output) / op.head_dim),
                static_cast<quarrel_uint>(op.head_dim),
                static_cast<quarrel_uint>(rope(setup).inverse_frequencies.size() * 2)},
        pipeline_(
            setup.pipeline("rope", "rope", {{kConstantRopeInterleaved, rope(setup).interleaved}})) {
    expect_multiple("rope", op.head_dim, 2);
  }

  void encode(const Step& step) override {
    const std::size_t n = step.n_rows(RowSpace::Tokens);
    const std::size_t n_pairs = setup_.width(output_) / 2;
    const std::size_t threads = std::min<std::size_t>(n_pairs, pipeline_.max_threads(256));
    step.encoder.use(pipeline_)
        .read(kRopeX, setup_.values.rows(input_, 0, n))
        .read(kRopeAngles, setup_.arrays.ropes[table_])
        .write(kRopeOut, setup_.values.rows(output_, 0, n))
        .params(kRopeParams, params_)
        .dispatch({ceil_div(n_pairs, threads), n}, {threads});
  }

 private:
  const RopeTable& rope(const Setup& setup) const { return setup.program.ropes[table_]; }

  const Setup& setup_;
  std::size_t table_;
  ValueId input_;
  ValueId output_;
  RopeParams params_;
  const Pipeline& pipeline_;
};

}  // namespace

OpEncoderPtr make_encoder(const RopeOp& op, const Op& io, const Setup& setup) {
  return std::make_unique<RopeEncoder>(op, io, setup);
}

}  // namespace quarrel::metal
