// The op vocabulary of a recorded forward pass.
//
// A value is a matrix of float32 with one row per token of the step (RowSpace::Tokens) or per row
// whose logits are wanted (RowSpace::Selected). Ops never mix rows, apart from attention, which
// reads other tokens through the KV cache only; that is why a batch can be any mix of sequences.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "core/dtype.h"

namespace quarrel {

enum class RowSpace { Tokens, Selected };

struct ValueId {
  std::int32_t index = -1;
};
struct WeightId {
  std::int32_t index = -1;
};
struct RopeId {
  std::int32_t index = -1;
};

struct ValueInfo {
  RowSpace rows;
  std::size_t width;  // elements per row
};

// A tensor of the model file, in the file's own format: n_rows rows of n_cols elements.
// owner keeps the mapping alive. file_backed: data is a private mapping of a file that nobody
// writes to, so a device that has copied it may give its pages back to the system.
struct Weight {
  std::string name;
  DType dtype;
  std::size_t n_rows;
  std::size_t n_cols;
  std::span<const std::byte> data;
  std::shared_ptr<const void> owner;
  bool file_backed = false;
};

// One rotary embedding: angle(position, i) = position * inverse_frequencies[i].
struct RopeTable {
  bool interleaved;                         // pairs (2i, 2i+1), else halves (i, i + n_rotated/2)
  std::vector<double> inverse_frequencies;  // [n_rotated / 2]
};

// What attention layer i keeps in the KV cache.
struct KVLayer {
  std::size_t n_kv_heads;
  std::size_t head_dim;  // of K and of V
  std::size_t window;    // a token sees itself and the window - 1 before it; 0: all before it
};

// out[n_tokens, n_cols] = scale * table[token_id]
struct EmbeddingOp {
  WeightId table;
  float scale;
};
// Each group of weight.n_cols elements of a row: x / sqrt(mean(x^2) + eps) * weight
// (Zhang and Sennrich, "Root Mean Square Layer Normalization", 2019).
struct RmsNormOp {
  WeightId weight;
  float eps;
};
// out[rows, weight.n_rows] = x W^T + bias
struct LinearOp {
  WeightId weight;
  std::optional<WeightId> bias;
};
// Rotates the first n_rotated elements of every head
// (Su et al., "RoFormer", 2021).
struct RopeOp {
  RopeId table;
  std::size_t head_dim;
};
// Stores k and v, each [n_tokens, n_kv_heads * head_dim], at this step's slots.
struct KVWriteOp {
  std::size_t layer;
};
// softmax(scale * q k^T + mask) v over the cache; q: [n_tokens, n_heads * head_dim]. With softcap
// c > 0 a score s becomes c * tanh(s / c).
struct AttentionOp {
  std::size_t layer;
  std::size_t n_heads;
  float scale;
  float softcap;
};
struct SiluMulOp {};  // silu(gate) * up
struct GeluMulOp {};  // gelu(gate) * up, tanh approximation
struct AddOp {
  float scale;  // a + scale * b
};
struct ScaleOp {
  float factor;
};
struct SoftcapOp {
  float cap;  // cap * tanh(x / cap)
};
struct SelectRowsOp {};  // Tokens -> Selected: the rows whose logits are wanted

using OpKind = std::variant<EmbeddingOp, RmsNormOp, LinearOp, RopeOp, KVWriteOp, AttentionOp,
                            SiluMulOp, GeluMulOp, AddOp, ScaleOp, SoftcapOp, SelectRowsOp>;

// The stem that an op has everywhere: "rms_norm", "kv_write".
std::string_view op_stem(const OpKind& kind);

struct Op {
  OpKind kind;
  std::vector<ValueId> inputs;
  std::optional<ValueId> output;  // kv_write has none
};

}  // namespace quarrel
