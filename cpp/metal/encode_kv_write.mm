#import "metal/op_encoder.h"

#include "metal/kv_types.h"
#include "shaders/params.h"

namespace quarrel::metal {
namespace {

class KVWriteEncoder final : public OpEncoder {
 public:
  KVWriteEncoder(const KVWriteOp& op, const Op& io, const Setup& setup)
      : setup_(setup), layer_(op.layer), k_(io.inputs[0]), v_(io.inputs[1]) {}

  void prepare(const KVLayout& layout) override {
    pipeline_ = &setup_.pipeline("kv_write", "kv_write", kv_constants(layer(), layout));
  }

  void encode(const Step& step) override {
    const std::size_t n = step.n_rows(RowSpace::Tokens);
    const std::size_t threads = layer().n_kv_heads * kv_scale_groups(head_dim()) * kChunksOfGroup;
    const auto& group = setup_.arrays.groups[setup_.program.group_of_layer[layer_]];
    step.encoder.use(*pipeline_)
        .read(kKVWriteK, setup_.values.rows(k_, 0, n))
        .read(kKVWriteV, setup_.values.rows(v_, 0, n))
        .read(kKVWriteSlots, group.slot_mapping)
        .write(kKVWriteKCache, step.storage.k(layer_))
        .write(kKVWriteVCache, step.storage.v(layer_))
        .params(kKVWriteParams, KVWriteParams{static_cast<quarrel_uint>(layer().n_kv_heads)})
        .dispatch({ceil_div(threads, 32), n, 2}, {32});
  }

 private:
  static constexpr std::size_t kChunksOfGroup = kKVScaleGroup / kKVChunk;
  const KVLayer& layer() const { return setup_.program.kv_layers[layer_]; }
  quarrel_uint head_dim() const { return static_cast<quarrel_uint>(layer().head_dim); }

  const Setup& setup_;
  std::size_t layer_;
  ValueId k_;
  ValueId v_;
  const Pipeline* pipeline_ = nullptr;
};

}  // namespace

OpEncoderPtr make_encoder(const KVWriteOp& op, const Op& io, const Setup& setup) {
  return std::make_unique<KVWriteEncoder>(op, io, setup);
}

}  // namespace quarrel::metal
