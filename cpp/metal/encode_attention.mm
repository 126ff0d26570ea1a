#import "metal/op_encoder.h"

#include <algorithm>
#include <string>

#include "metal/kv_types.h"
#include "shaders/params.h"

namespace quarrel::metal {
namespace {

class AttentionEncoder final : public OpEncoder {
 public:
  AttentionEncoder(const AttentionOp& op, const Op& io, const Setup& setup)
      : setup_(setup),
        op_(op),
        q_(io.inputs.front()),
        output_(*io.output),
        layer_(setup.program.kv_layers[op.layer]),
        split_(split_heads(op.n_heads, layer_.n_kv_heads)) {}

  void prepare(const KVLayout& layout) override {
    auto constants = kv_constants(layer_, layout);
    constants.push_back({kConstantGroup, static_cast<std::uint32_t>(split_.group)});
    prefill_ = &setup_.pipeline("attention_prefill", prefill_kernel(layout), constants);
    // From shapes alone, so that neither a batch nor a bigger GPU changes the order of a sum.
    const quarrel_uint k_type = kv_type(layout.k_dtype);
    const quarrel_uint v_type = kv_type(layout.v_dtype);
    const auto group = static_cast<quarrel_uint>(split_.group);
    const auto head_dim = static_cast<quarrel_uint>(layer_.head_dim);
    partition_ = attention_partition(k_type, v_type, head_dim, group);
    const quarrel_uint round = attention_round(k_type, v_type, group, partition_);
    decode_memory_ = attention_decode_memory(head_dim, group, partition_, round,
                                             kv_has_scales(k_type), kv_has_scales(v_type));
    constants.push_back({kConstantPartition, std::uint32_t{partition_}});
    constants.push_back({kConstantRound, std::uint32_t{round}});
    decode_ = &setup_.pipeline("attention_decode", "attention_decode", constants);
    reduce_ = &setup_.pipeline("attention_decode", "attention_decode_reduce", constants);
  }

  void encode(const Step& step) override {
    if (setup_.arrays.decode_items.n > 0) encode_decode(step);
    if (prefill_items().n > 0) encode_prefill(step);
  }

 private:
  // Matrices of half hold what these types hold; values of the others may be larger or finer.
  std::string prefill_kernel(const KVLayout& layout) const {
    const auto fits_half = [](DType dtype) { return dtype != DType::F32 && dtype != DType::BF16; };
    return std::string("attention_prefill_") +
           (fits_half(layout.k_dtype) && fits_half(layout.v_dtype) ? "half_" : "float_") +
           std::to_string(layer_.head_dim);
  }
  const StepArrays::Items& prefill_items() const {
    return setup_.arrays.prefill_items.at(prefill_item_tokens(split_));
  }
  std::size_t group() const { return setup_.program.group_of_layer[op_.layer]; }
  // What decodes touch of q and of the output, and what prefills do, do not overlap.
  BufferRange q(RowRange rows) const { return setup_.values.rows(q_, rows.first, rows.n); }

  AttentionParams params(const Step& step, std::size_t max_slots) const {
    const GroupInputs& inputs = step.inputs.groups[group()];
    const std::size_t window = inputs.window != 0 ? inputs.window : layer_.window;
    return {static_cast<quarrel_uint>(op_.n_heads),
            static_cast<quarrel_uint>(layer_.n_kv_heads),
            static_cast<quarrel_uint>(inputs.max_blocks),
            static_cast<quarrel_uint>(max_slots),
            static_cast<quarrel_uint>(window),
            static_cast<quarrel_uint>(inputs.window != 0 ? inputs.sinks : 0),
            op_.scale,
            op_.softcap};
  }

  std::size_t most_slots(const Step& step) const {
    const AttentionParams p = params(step, 0);
    quarrel_uint most = 0;
    for (std::size_t row = 0; row < step.inputs.n_decodes; ++row)
      most = std::max(most, attention_slots(static_cast<quarrel_uint>(step.inputs.positions[row]),
                                            p.window, p.sinks, partition_));
    return most;
  }

  void encode_decode(const Step& step) {
    const auto& items = setup_.arrays.decode_items;
    const RowRange rows{0, items.n};
    const std::size_t max_slots = most_slots(step);
    const AttentionParams p = params(step, max_slots);
    const auto partials =
        setup_.attention_scratch.partials(items.n * op_.n_heads * max_slots, layer_.head_dim);
    step.encoder.use(*decode_)
        .read(kDecodeQ, q(rows))
        .read(kDecodeKCache, step.storage.k(op_.layer))
        .read(kDecodeVCache, step.storage.v(op_.layer))
        .read(kDecodeBlockTables, setup_.arrays.groups[group()].block_tables)
        .read(kDecodePositions, setup_.arrays.positions)
        .read(kDecodeItems, items.range)
        .write(kDecodeOut, setup_.values.rows(output_, 0, items.n))
        .write(kDecodePartials, partials.values)
        .write(kDecodePartialSums, partials.sums)
        .params(kDecodeParams, p)
        .threadgroup_bytes(0, decode_memory_)
        .dispatch({max_slots, layer_.n_kv_heads * split_.n_splits, items.n}, {kAttentionThreads});
    if (max_slots == 1) return;  // written to the output already
    step.encoder.use(*reduce_)
        .read(kReducePartials, partials.values)
        .read(kReducePartialSums, partials.sums)
        .read(kReducePositions, setup_.arrays.positions)
        .read(kReduceItems, items.range)
        .write(kReduceOut, setup_.values.rows(output_, 0, items.n))
        .params(kReduceParams, p)
        .dispatch({ceil_div(op_.n_heads, kAttentionSimdgroups), items.n}, {kAttentionThreads});
  }

  void encode_prefill(const Step& step) {
    const auto& items = prefill_items();
    const std::size_t n = step.n_rows(RowSpace::Tokens);  // items name rows of the whole step
    step.encoder.use(*prefill_)
        .read(kPrefillQ, q({0, n}))
        .read(kPrefillKCache, step.storage.k(op_.layer))
        .read(kPrefillVCache, step.storage.v(op_.layer))
        .read(kPrefillBlockTables, setup_.arrays.groups[group()].block_tables)
        .read(kPrefillPositions, setup_.arrays.positions)
        .read(kPrefillItems, items.range)
        .write(kPrefillOut, setup_.values.rows(output_, 0, n))
        .params(kPrefillParams, params(step, 0))
        .dispatch({items.n, layer_.n_kv_heads * split_.n_splits}, {kAttentionThreads});
  }

  const Setup& setup_;
  AttentionOp op_;
  ValueId q_;
  ValueId output_;
  const KVLayer& layer_;
  HeadSplit split_;
  quarrel_uint partition_ = 0;      // tokens
  quarrel_uint decode_memory_ = 0;  // bytes of threadgroup memory
  const Pipeline* decode_ = nullptr;
  const Pipeline* reduce_ = nullptr;
  const Pipeline* prefill_ = nullptr;
};

}  // namespace

OpEncoderPtr make_encoder(const AttentionOp& op, const Op& io, const Setup& setup) {
  return std::make_unique<AttentionEncoder>(op, io, setup);
}

}  // namespace quarrel::metal
