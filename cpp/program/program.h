// A recorded forward pass and its recorder.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "program/ops.h"

namespace quarrel {

// Layers with the same attention span share block tables.
struct LayerGroup {
  std::size_t window;  // 0: full attention
  std::vector<std::size_t> layers;
};

// Immutable once built; devices compile it.
struct Program {
  std::vector<Op> ops;
  std::vector<ValueInfo> values;
  std::vector<Weight> weights;
  std::vector<RopeTable> ropes;
  std::vector<KVLayer> kv_layers;
  std::vector<LayerGroup> groups;
  std::vector<std::size_t> group_of_layer;  // [n_layers]
  ValueId logits;

  const ValueInfo& value(ValueId id) const { return values[static_cast<std::size_t>(id.index)]; }
  const Weight& weight(WeightId id) const { return weights[static_cast<std::size_t>(id.index)]; }
  std::size_t weight_bytes() const;  // of the distinct tensors used
};

// Model files call these in order, once, at load time. Every method checks shapes and throws
// InvalidArgument "[op] expected ..., got ..." on a mismatch.
class ProgramBuilder {
 public:
  explicit ProgramBuilder(std::vector<KVLayer> kv_layers);

  WeightId weight(Weight weight);
  RopeId rope_table(std::size_t n_rotated, double base, bool interleaved, double linear_scale,
                    const std::vector<float>& frequency_factors);

  ValueId embedding(WeightId table, float scale);
  ValueId rms_norm(ValueId x, WeightId weight, float eps);
  ValueId linear(ValueId x, WeightId weight, std::optional<WeightId> bias);
  ValueId rope(ValueId x, RopeId table, std::size_t head_dim);
  void kv_write(std::size_t layer, ValueId k, ValueId v);
  ValueId attention(std::size_t layer, ValueId q, std::size_t n_heads, float scale, float softcap);
  ValueId silu_mul(ValueId gate, ValueId up);
  ValueId gelu_mul(ValueId gate, ValueId up);
  ValueId add(ValueId a, ValueId b, float scale);
  ValueId scale(ValueId x, float factor);
  ValueId softcap(ValueId x, float cap);
  ValueId select_rows(ValueId x);

  // logits: the model's output, Selected rows of vocab_size. The builder is empty afterwards.
  std::shared_ptr<const Program> finish(ValueId logits);

 private:
  const ValueInfo& info(const char* op, ValueId id) const;
  const Weight& tensor(const char* op, WeightId id) const;
  const KVLayer& kv_layer(const char* op, std::size_t layer) const;
  ValueId record(OpKind kind, std::vector<ValueId> inputs, ValueInfo output);
  ValueId gated(const char* op, OpKind kind, ValueId gate, ValueId up);

  Program program_;
};

}  // namespace quarrel
