#import "metal/op_encoder.h"

#include <algorithm>

#include "shaders/params.h"

namespace quarrel::metal {
namespace {

class EmbeddingEncoder final : public OpEncoder {
 public:
  EmbeddingEncoder(const EmbeddingOp& op, const Op& io, const Setup& setup)
      : setup_(setup),
        op_(op),
        output_(*io.output),
        pipeline_(setup.pipeline("embedding",
                                 kernel_name("embedding", setup.program.weight(op.table).dtype))) {
    expect_multiple("embedding", setup.width(output_), kEmbeddingElements);
  }

  void encode(const Step& step) override {
    const std::size_t n = step.n_rows(RowSpace::Tokens);
    const std::size_t n_chunks = setup_.width(output_) / kEmbeddingElements;
    const std::size_t threads = std::min<std::size_t>(n_chunks, pipeline_.max_threads(256));
    step.encoder.use(pipeline_)
        .read(kEmbeddingTable, setup_.weights[op_.table])
        .read(kEmbeddingTokens, setup_.arrays.token_ids)
        .write(kEmbeddingOut, setup_.values.rows(output_, 0, n))
        .params(kEmbeddingParams,
                EmbeddingParams{static_cast<quarrel_uint>(setup_.width(output_)), op_.scale})
        .dispatch({ceil_div(n_chunks, threads), n}, {threads});
  }

 private:
  const Setup& setup_;
  EmbeddingOp op_;
  ValueId output_;
  const Pipeline& pipeline_;
};

}  // namespace

OpEncoderPtr make_encoder(const EmbeddingOp& op, const Op& io, const Setup& setup) {
  return std::make_unique<EmbeddingEncoder>(op, io, setup);
}

}  // namespace quarrel::metal
