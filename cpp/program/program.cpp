#include "program/program.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <set>
#include <utility>

#include "core/error.h"

namespace quarrel {
namespace {

[[noreturn]] void fail(const char* op, const std::string& expected, const std::string& got) {
  throw InvalidArgument("[" + std::string(op) + "] expected " + expected + ", got " + got);
}

void expect_width(const char* op, const std::string& what, std::size_t expected, std::size_t got) {
  if (expected != got)
    fail(op, what + " of width " + std::to_string(expected), "width " + std::to_string(got));
}

void expect_tokens(const char* op, const ValueInfo& got) {
  if (got.rows != RowSpace::Tokens) fail(op, "a row per token", "selected rows");
}

// Two inputs that are combined row by row.
void expect_same_shape(const char* op, const std::string& what, const ValueInfo& expected,
                       const ValueInfo& got) {
  expect_width(op, what, expected.width, got.width);
  if (expected.rows != got.rows)
    fail(op, "both inputs to have a row per token, or both selected rows", "one of each");
}

std::vector<LayerGroup> group_by_window(const std::vector<KVLayer>& layers) {
  std::vector<LayerGroup> groups;
  for (std::size_t i = 0; i < layers.size(); ++i) {
    auto found = std::ranges::find(groups, layers[i].window, &LayerGroup::window);
    if (found == groups.end()) found = groups.insert(groups.end(), {layers[i].window, {}});
    found->layers.push_back(i);
  }
  return groups;
}

}  // namespace

std::string_view op_stem(const OpKind& kind) {
  constexpr std::array<std::string_view, std::variant_size_v<OpKind>> kStems = {
      "embedding", "rms_norm", "linear", "rope",  "kv_write", "attention",
      "silu_mul",  "gelu_mul", "add",    "scale", "softcap",  "select_rows"};
  return kStems[kind.index()];
}

std::size_t Program::weight_bytes() const {
  std::size_t total = 0;
  std::set<const std::byte*> seen;  // a tied output matrix is one tensor used twice
  for (const auto& w : weights)
    if (seen.insert(w.data.data()).second) total += w.data.size();
  return total;
}

ProgramBuilder::ProgramBuilder(std::vector<KVLayer> kv_layers) {
  for (const KVLayer& layer : kv_layers)
    if (layer.n_kv_heads == 0 || layer.head_dim == 0)
      fail("kv_layer", "at least one KV head of at least one element",
           std::to_string(layer.n_kv_heads) + " of " + std::to_string(layer.head_dim));
  program_.groups = group_by_window(kv_layers);
  program_.group_of_layer.resize(kv_layers.size());
  for (std::size_t g = 0; g < program_.groups.size(); ++g)
    for (const std::size_t layer : program_.groups[g].layers) program_.group_of_layer[layer] = g;
  program_.kv_layers = std::move(kv_layers);
}

const ValueInfo& ProgramBuilder::info(const char* op, ValueId id) const {
  if (id.index < 0 || static_cast<std::size_t>(id.index) >= program_.values.size())
    fail(op, "a value of this builder", "value " + std::to_string(id.index));
  return program_.value(id);
}

const Weight& ProgramBuilder::tensor(const char* op, WeightId id) const {
  if (id.index < 0 || static_cast<std::size_t>(id.index) >= program_.weights.size())
    fail(op, "a weight of this builder", "weight " + std::to_string(id.index));
  return program_.weight(id);
}

const KVLayer& ProgramBuilder::kv_layer(const char* op, std::size_t layer) const {
  if (layer >= program_.kv_layers.size())
    fail(op, "a layer below " + std::to_string(program_.kv_layers.size()), std::to_string(layer));
  return program_.kv_layers[layer];
}

ValueId ProgramBuilder::record(OpKind kind, std::vector<ValueId> inputs, ValueInfo output) {
  const ValueId id{static_cast<std::int32_t>(program_.values.size())};
  program_.values.push_back(output);
  program_.ops.push_back({std::move(kind), std::move(inputs), id});
  return id;
}

WeightId ProgramBuilder::weight(Weight weight) {
  const std::size_t expected = weight.n_rows * row_bytes(weight.dtype, weight.n_cols);
  if (weight.data.size() != expected)
    fail("weight", weight.name + " of " + std::to_string(expected) + " bytes",
         std::to_string(weight.data.size()));
  program_.weights.push_back(std::move(weight));
  return {static_cast<std::int32_t>(program_.weights.size()) - 1};
}

RopeId ProgramBuilder::rope_table(std::size_t n_rotated, double base, bool interleaved,
                                  double linear_scale,
                                  const std::vector<float>& frequency_factors) {
  if (n_rotated == 0 || n_rotated % 2 != 0)
    fail("rope", "an even number of rotated elements", std::to_string(n_rotated));
  if (!frequency_factors.empty() && frequency_factors.size() != n_rotated / 2)
    fail("rope", std::to_string(n_rotated / 2) + " frequency factors",
         std::to_string(frequency_factors.size()));
  RopeTable table{interleaved, {}};
  for (std::size_t i = 0; i < n_rotated / 2; ++i) {
    double inverse = std::pow(base, -2.0 * static_cast<double>(i) / static_cast<double>(n_rotated));
    if (!frequency_factors.empty()) inverse /= static_cast<double>(frequency_factors[i]);
    table.inverse_frequencies.push_back(inverse / linear_scale);
  }
  program_.ropes.push_back(std::move(table));
  return {static_cast<std::int32_t>(program_.ropes.size()) - 1};
}

ValueId ProgramBuilder::embedding(WeightId table, float scale) {
  return record(EmbeddingOp{table, scale}, {},
                {RowSpace::Tokens, tensor("embedding", table).n_cols});
}

ValueId ProgramBuilder::rms_norm(ValueId x, WeightId weight, float eps) {
  const ValueInfo in = info("rms_norm", x);
  const Weight& w = tensor("rms_norm", weight);
  if (w.dtype != DType::F32 || w.n_rows != 1)
    fail("rms_norm", w.name + " to be one row of F32",
         std::string(traits(w.dtype).name) + " with " + std::to_string(w.n_rows) + " rows");
  if (in.width % w.n_cols != 0)
    fail("rms_norm", "a width that is a multiple of " + std::to_string(w.n_cols),
         std::to_string(in.width));
  return record(RmsNormOp{weight, eps}, {x}, in);
}

ValueId ProgramBuilder::linear(ValueId x, WeightId weight, std::optional<WeightId> bias) {
  const ValueInfo in = info("linear", x);
  const Weight& w = tensor("linear", weight);
  expect_width("linear", "an input of " + w.name, w.n_cols, in.width);
  if (bias) {
    const Weight& b = tensor("linear", *bias);
    if (b.dtype != DType::F32)
      fail("linear", b.name + " of F32", std::string(traits(b.dtype).name));
    expect_width("linear", b.name, w.n_rows, b.n_cols * b.n_rows);
  }
  return record(LinearOp{weight, bias}, {x}, {in.rows, w.n_rows});
}

ValueId ProgramBuilder::rope(ValueId x, RopeId table, std::size_t head_dim) {
  const ValueInfo in = info("rope", x);
  expect_tokens("rope", in);
  if (table.index < 0 || static_cast<std::size_t>(table.index) >= program_.ropes.size())
    fail("rope", "a rope table of this builder", std::to_string(table.index));
  const auto& t = program_.ropes[static_cast<std::size_t>(table.index)];
  if (head_dim == 0 || in.width % head_dim != 0 || t.inverse_frequencies.size() * 2 > head_dim)
    fail("rope", "whole heads of at least " + std::to_string(t.inverse_frequencies.size() * 2),
         "width " + std::to_string(in.width) + ", head_dim " + std::to_string(head_dim));
  return record(RopeOp{table, head_dim}, {x}, in);
}

void ProgramBuilder::kv_write(std::size_t layer, ValueId k, ValueId v) {
  const KVLayer& kv = kv_layer("kv_write", layer);
  expect_width("kv_write", "k", kv.n_kv_heads * kv.head_dim, info("kv_write", k).width);
  expect_width("kv_write", "v", kv.n_kv_heads * kv.head_dim, info("kv_write", v).width);
  expect_tokens("kv_write", info("kv_write", k));
  expect_tokens("kv_write", info("kv_write", v));
  program_.ops.push_back({KVWriteOp{layer}, {k, v}, std::nullopt});
}

ValueId ProgramBuilder::attention(std::size_t layer, ValueId q, std::size_t n_heads, float scale,
                                  float softcap) {
  const KVLayer& kv = kv_layer("attention", layer);
  const ValueInfo in = info("attention", q);
  expect_width("attention", "q", n_heads * kv.head_dim, in.width);
  expect_tokens("attention", in);
  if (n_heads % kv.n_kv_heads != 0)
    fail("attention", "n_heads to be a multiple of n_kv_heads",
         std::to_string(n_heads) + " and " + std::to_string(kv.n_kv_heads));
  return record(AttentionOp{layer, n_heads, scale, softcap}, {q}, in);
}

ValueId ProgramBuilder::gated(const char* op, OpKind kind, ValueId gate, ValueId up) {
  const ValueInfo in = info(op, gate);
  expect_same_shape(op, "up", in, info(op, up));
  return record(std::move(kind), {gate, up}, in);
}

ValueId ProgramBuilder::silu_mul(ValueId gate, ValueId up) {
  return gated("silu_mul", SiluMulOp{}, gate, up);
}

ValueId ProgramBuilder::gelu_mul(ValueId gate, ValueId up) {
  return gated("gelu_mul", GeluMulOp{}, gate, up);
}

ValueId ProgramBuilder::add(ValueId a, ValueId b, float scale) {
  const ValueInfo in = info("add", a);
  expect_same_shape("add", "b", in, info("add", b));
  return record(AddOp{scale}, {a, b}, in);
}

ValueId ProgramBuilder::scale(ValueId x, float factor) {
  return record(ScaleOp{factor}, {x}, info("scale", x));
}

ValueId ProgramBuilder::softcap(ValueId x, float cap) {
  return record(SoftcapOp{cap}, {x}, info("softcap", x));
}

ValueId ProgramBuilder::select_rows(ValueId x) {
  const ValueInfo in = info("select_rows", x);
  expect_tokens("select_rows", in);
  return record(SelectRowsOp{}, {x}, {RowSpace::Selected, in.width});
}

std::shared_ptr<const Program> ProgramBuilder::finish(ValueId logits) {
  if (info("logits", logits).rows != RowSpace::Selected)
    fail("logits", "selected rows", "a row per token");
  program_.logits = logits;
  return std::make_shared<const Program>(std::exchange(program_, {}));
}

}  // namespace quarrel
