// decode_step: a whole step of one fixed small model with the layers of llama, random weights, and
// another element type in every layer. Its instruction count is a figure that a machine's noise
// does not touch (benchmarks/instruction_count.py).
#include <array>
#include <cmath>
#include <vector>

#include "op.h"
#include "random_weights.h"
#include "reference.h"
#include "texts.h"

namespace quarrel::bench {
namespace {

constexpr std::size_t kVocab = 1024;
constexpr std::size_t kEmbd = 256;
constexpr std::size_t kFeedForward = 768;
constexpr std::size_t kHeads = 8;
constexpr std::size_t kKVHeads = 2;
constexpr std::size_t kHeadDim = 32;
constexpr std::size_t kChunk = 64;
constexpr std::size_t kSpans = 1 << 12;  // of each thread, when tracing
constexpr double kRopeBase = 10000;
constexpr float kEps = 1e-5f;
constexpr std::array kLayerTypes = {DType::Q4_0, DType::Q4_1, DType::Q5_0,
                                    DType::Q8_0, DType::Q4_K, DType::Q6_K};

// Of float32 sums over six layers, with activations of 16 bits.
constexpr double kBound = 1e-3;

struct Layer {
  Weight q, k, v, output, gate, up, down;
};

struct Model {
  Weight embedding;  // also the output matrix
  Weight norm;
  std::vector<Layer> layers;
};

Model make_model() {
  std::uint64_t seed = 0;
  const auto matrix = [&](const std::string& name, DType dtype, std::size_t n_out,
                          std::size_t n_in) {
    const float size = 1 / std::sqrt(static_cast<float>(n_in));
    return random_weight(name + ".weight", dtype, n_out, n_in, size, ++seed);
  };
  Model model{random_weight("token_embd.weight", DType::Q8_0, kVocab, kEmbd, 1, 0),
              ones("norm.weight", kEmbd),
              {}};
  for (const DType dtype : kLayerTypes) {
    const std::string block = "blk." + std::to_string(model.layers.size()) + ".";
    constexpr std::size_t kQWidth = kHeads * kHeadDim;
    constexpr std::size_t kKVWidth = kKVHeads * kHeadDim;
    Layer layer;
    layer.q = matrix(block + "attn_q", dtype, kQWidth, kEmbd);
    layer.k = matrix(block + "attn_k", dtype, kKVWidth, kEmbd);
    layer.v = matrix(block + "attn_v", dtype, kKVWidth, kEmbd);
    layer.output = matrix(block + "attn_output", dtype, kEmbd, kQWidth);
    layer.gate = matrix(block + "ffn_gate", dtype, kFeedForward, kEmbd);
    layer.up = matrix(block + "ffn_up", dtype, kFeedForward, kEmbd);
    layer.down = matrix(block + "ffn_down", dtype, kEmbd, kFeedForward);
    model.layers.push_back(std::move(layer));
  }
  return model;
}

std::shared_ptr<const Program> record(const Model& model) {
  ProgramBuilder b(std::vector<KVLayer>(model.layers.size(), KVLayer{kKVHeads, kHeadDim, 0}));
  const auto linear = [&](ValueId x, const Weight& weight) {
    return b.linear(x, b.weight(weight), std::nullopt);
  };
  const WeightId embedding = b.weight(model.embedding);
  const WeightId norm = b.weight(model.norm);
  const RopeId rope = b.rope_table(kHeadDim, kRopeBase, true, 1.0, {});
  const float scale = 1 / std::sqrt(static_cast<float>(kHeadDim));
  ValueId x = b.embedding(embedding, 1.0f);
  for (std::size_t i = 0; i < model.layers.size(); ++i) {
    const Layer& layer = model.layers[i];
    ValueId h = b.rms_norm(x, norm, kEps);
    const ValueId q = b.rope(linear(h, layer.q), rope, kHeadDim);
    b.kv_write(i, b.rope(linear(h, layer.k), rope, kHeadDim), linear(h, layer.v));
    x = b.add(x, linear(b.attention(i, q, kHeads, scale, 0.0f), layer.output), 1.0f);
    h = b.rms_norm(x, norm, kEps);
    const ValueId gated = b.silu_mul(linear(h, layer.gate), linear(h, layer.up));
    x = b.add(x, linear(gated, layer.down), 1.0f);
  }
  return b.finish(b.linear(b.rms_norm(b.select_rows(x), norm, kEps), embedding, std::nullopt));
}

// The same in float64, one token after the other of one text; K and V as they are.
class Reference {
 public:
  Reference(const Model& model, const Program& program, const Setup& setup)
      : rope_(program.ropes[0]), setup_(setup), embedding_(reference::expand(model.embedding)) {
    for (const Layer& layer : model.layers) {
      auto& matrices = layers_.emplace_back();
      for (const Weight* w :
           {&layer.q, &layer.k, &layer.v, &layer.output, &layer.gate, &layer.up, &layer.down})
        matrices.push_back(reference::expand(*w));
    }
  }

  // Logits of the last of n_tokens.
  reference::Vector logits(std::size_t text, std::size_t n_tokens) {
    keys_.assign(layers_.size(), {});
    values_.assign(layers_.size(), {});
    reference::Vector x;
    for (std::size_t position = 0; position < n_tokens; ++position) {
      x = embedding_[static_cast<std::size_t>(token_at(text, position, kVocab))];
      for (std::size_t i = 0; i < layers_.size(); ++i) run_layer(i, position, x);
    }
    return reference::linear(embedding_, reference::rms_norm(x, kEps));
  }

 private:
  void run_layer(std::size_t i, std::size_t position, reference::Vector& x) {
    const auto& w = layers_[i];
    auto h = reference::rms_norm(x, kEps);
    auto q = reference::linear(w[0], h);
    auto k = reference::linear(w[1], h);
    reference::rope(q, rope_, kHeadDim, position);
    reference::rope(k, rope_, kHeadDim, position);
    keys_[i].push_back(reference::stored(setup_.at.k_dtype, k));
    values_[i].push_back(reference::stored(setup_.at.v_dtype, reference::linear(w[2], h)));
    const auto seen =
        reference::attention(q, keys_[i], values_[i], kHeads, kHeadDim, mask_of(setup_.options));
    reference::add(x, reference::linear(w[3], seen));
    h = reference::rms_norm(x, kEps);
    const auto gated = reference::silu_mul(reference::linear(w[4], h), reference::linear(w[5], h));
    reference::add(x, reference::linear(w[6], gated));
  }

  const RopeTable& rope_;
  const Setup& setup_;
  const reference::Matrix embedding_;
  std::vector<std::vector<reference::Matrix>> layers_;
  std::vector<reference::Matrix> keys_;  // [n_layers][n_tokens]
  std::vector<reference::Matrix> values_;
};

class Bench {
 public:
  explicit Bench(const Setup& setup)
      : setup_(setup),
        model_(make_model()),
        program_(record(model_)),
        executable_(setup.device->compile(
            program_, {std::max(kChunk, setup.at.batch), setup.at.batch, setup.at.depth + 1},
            setup.ledger)),
        texts_(setup, *program_, setup.at.depth + 1, kVocab) {
    texts_.extend(*executable_, setup.at.depth, kChunk);
    if (setup.options.profiling != Profiling::Off) executable_->set_profiling(true);
    if (setup.options.profiling == Profiling::Trace)
      executable_->set_trace(
          std::make_shared<SpanLog>(setup.ledger, executable_->track_names().size(), kSpans));
  }

  // With the assembly of the step, as an engine runs it.
  std::span<const float> run() { return executable_->run(texts_.next(1, false), texts_.storage()); }

  Performance performance() {
    const Timing timing = measure(setup_.options, [] {}, [&] { run(); });
    const std::size_t width = kKVHeads * kHeadDim;
    const std::size_t per_token =
        row_bytes(setup_.at.k_dtype, width) + row_bytes(setup_.at.v_dtype, width);
    const std::size_t n_seen = n_visible(mask_of(setup_.options), setup_.at.depth);
    const std::size_t bytes =
        program_->weight_bytes() + setup_.at.batch * n_seen * per_token * model_.layers.size();
    return {timing, 1, "step", static_cast<double>(bytes), 0, hash_of(run())};
  }

  Comparison comparison() {
    const auto rows = run();
    Reference reference(model_, *program_, setup_);
    reference::Matrix expected;
    for (std::size_t text = 0; text < setup_.at.batch; ++text)
      expected.push_back(reference.logits(text, setup_.at.depth + 1));
    return {reference::distance(rows, expected), bound(), hash_of(rows)};
  }

 private:
  double bound() const {
    const auto is_float = [](DType dtype) { return traits(dtype).block_elements == 1; };
    if (is_float(setup_.at.k_dtype) && is_float(setup_.at.v_dtype)) return kBound;
    const auto is_8_bit = [&](DType dtype) { return is_float(dtype) || dtype == DType::Q8_0; };
    return is_8_bit(setup_.at.k_dtype) && is_8_bit(setup_.at.v_dtype) ? 0.05 : 0.5;
  }

  const Setup& setup_;
  const Model model_;
  std::shared_ptr<const Program> program_;
  std::unique_ptr<Executable> executable_;
  Texts texts_;
};

void check(const Setup& setup) {
  const auto program = record(make_model());
  (void)setup.device->memory_needs(*program, {setup.at.batch});
  (void)setup.device->kv_block_bytes(*program, setup.options.block_size, setup.at.k_dtype,
                                     setup.at.v_dtype);
}

std::string shape(const Options&) {
  return "layers=" + std::to_string(kLayerTypes.size()) + " n_embd=" + std::to_string(kEmbd);
}

Performance measure_step(const Setup& setup) { return Bench(setup).performance(); }
Comparison compare_step(const Setup& setup) { return Bench(setup).comparison(); }

constexpr OpSpec kOps[] = {
    {"decode_step",
     {.cache = true, .kv_dtypes = true, .depth = true, .batch = true},
     shape,
     check,
     measure_step,
     compare_step},
};

}  // namespace

std::span<const OpSpec> decode_step_ops() { return kOps; }

}  // namespace quarrel::bench
