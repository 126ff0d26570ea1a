// attention_decode, attention_prefill and kv_write: programs that hold nothing else, save for the
// embeddings that bring their inputs in.
#include <algorithm>
#include <cmath>
#include <vector>

#include "op.h"
#include "random_weights.h"
#include "reference.h"
#include "texts.h"

namespace quarrel::bench {
namespace {

constexpr std::size_t kVocab = 127;  // distinct rows of Q, K and V
constexpr std::size_t kFillChunk = 512;

// A step has several layers with K and V of their own: so it streams through memory as a model's
// step does, and what a step costs beside the op is shared among them.
constexpr std::size_t kStreamedBytes = std::size_t{64} << 20;
constexpr std::size_t kMostLayers = 32;
constexpr std::size_t kPrefillPairs = 1 << 22;  // (query, position) pairs that a prefill is to have

struct Inputs {
  Weight q, k, v;  // [kVocab, width]
};

Inputs make_inputs(const Options& o, bool blank) {
  const std::size_t q_width = o.n_heads * o.head_dim;
  const std::size_t kv_width = o.n_kv_heads * o.head_dim;
  if (blank)
    return {blank_weight(DType::F32, kVocab, q_width), blank_weight(DType::F32, kVocab, kv_width),
            blank_weight(DType::F32, kVocab, kv_width)};
  return {random_weight("q", DType::F32, kVocab, q_width, 1, 1),
          random_weight("k", DType::F32, kVocab, kv_width, 1, 2),
          random_weight("v", DType::F32, kVocab, kv_width, 1, 3)};
}

std::vector<KVLayer> kv_layers(const Options& o, std::size_t n_layers) {
  return std::vector<KVLayer>(n_layers, KVLayer{o.n_kv_heads, o.head_dim, 0});
}

// Each layer attends with what the one before it has made.
std::shared_ptr<const Program> attention_program(const Options& o, const Inputs& inputs,
                                                 std::size_t n_layers) {
  ProgramBuilder builder(kv_layers(o, n_layers));
  ValueId x = builder.embedding(builder.weight(inputs.q), 1.0f);
  const float scale = 1 / std::sqrt(static_cast<float>(o.head_dim));
  for (std::size_t layer = 0; layer < n_layers; ++layer)
    x = builder.attention(layer, x, o.n_heads, scale, 0.0f);
  return builder.finish(builder.select_rows(x));
}

std::shared_ptr<const Program> write_program(const Options& o, const Inputs& inputs,
                                             std::size_t n_layers) {
  ProgramBuilder builder(kv_layers(o, n_layers));
  const ValueId k = builder.embedding(builder.weight(inputs.k), 1.0f);
  const ValueId v = builder.embedding(builder.weight(inputs.v), 1.0f);
  for (std::size_t layer = 0; layer < n_layers; ++layer) builder.kv_write(layer, k, v);
  return builder.finish(builder.select_rows(k));
}

std::size_t kv_token_bytes(const Setup& setup) {  // of one layer
  const std::size_t width = setup.options.n_kv_heads * setup.options.head_dim;
  return row_bytes(setup.at.k_dtype, width) + row_bytes(setup.at.v_dtype, width);
}

// The texts at their depth, the new tokens' K and V written, and the two programs.
class Bench {
 public:
  Bench(const Setup& setup, std::size_t n_new, std::size_t n_layers, bool all_rows)
      : setup_(setup),
        n_new_(n_new),
        n_layers_(n_layers),
        all_rows_(all_rows),
        inputs_(make_inputs(setup.options, false)),
        write_program_(write_program(setup.options, inputs_, n_layers)),
        write_(compile(write_program_, std::max(kFillChunk, n_tokens()))),
        attend_(compile(attention_program(setup.options, inputs_, n_layers), n_tokens())),
        texts_(setup, *write_program_, setup.at.depth + n_new, kVocab) {
    texts_.extend(*write_, setup.at.depth, kFillChunk);
    step_ = texts_.next(n_new, all_rows);
    write();
  }

  std::size_t n_tokens() const { return setup_.at.batch * n_new_; }
  void write() { write_->run(step_, texts_.storage()); }
  std::span<const float> attend() { return attend_->run(step_, texts_.storage()); }

  // (query, position) pairs of the step, and positions that some query sees.
  std::size_t n_pairs() const {
    std::size_t n = 0;
    for (std::size_t i = 0; i < n_new_; ++i)
      n += n_visible(mask_of(setup_.options), setup_.at.depth + i);
    return n * setup_.at.batch;
  }
  std::size_t n_positions() const {
    const std::size_t last = n_visible(mask_of(setup_.options), setup_.at.depth + n_new_ - 1);
    return std::min(last + n_new_ - 1, setup_.at.depth + n_new_) * setup_.at.batch;
  }

  Performance attention_performance() {
    const Options& o = setup_.options;
    const Timing timing = measure(o, [] {}, [&] { attend(); });
    const auto width = static_cast<double>(o.n_heads * o.head_dim);
    const double rows = static_cast<double>(n_tokens()) * width * 2 * sizeof(float);
    const double cached = static_cast<double>(n_positions() * kv_token_bytes(setup_));
    const double flops = 4 * width * static_cast<double>(n_pairs());
    return {timing, static_cast<double>(n_layers_), "op", cached + rows, flops, hash_of(attend())};
  }

  Performance write_performance() {
    const Timing timing = measure(setup_.options, [] {}, [&] { write(); });
    const auto bytes = static_cast<double>(n_tokens() * kv_token_bytes(setup_));
    return {timing, static_cast<double>(n_layers_), "op", bytes, 0, hash_of(attend())};
  }

  Comparison comparison() {
    const auto rows = attend();
    return {reference::distance(rows, expected()), bound(), hash_of(rows)};
  }

 private:
  std::unique_ptr<Executable> compile(std::shared_ptr<const Program> program,
                                      std::size_t max_tokens) const {
    return setup_.device->compile(
        std::move(program),
        {max_tokens, all_rows_ ? max_tokens : setup_.at.batch, setup_.at.depth + n_new_},
        setup_.ledger);
  }

  reference::Matrix expected() const {
    const Options& o = setup_.options;
    const auto q = reference::expand(inputs_.q);
    auto k = reference::expand(inputs_.k);
    auto v = reference::expand(inputs_.v);
    for (auto& row : k) row = reference::stored(setup_.at.k_dtype, row);
    for (auto& row : v) row = reference::stored(setup_.at.v_dtype, row);
    reference::Matrix result;
    for (std::size_t text = 0; text < setup_.at.batch; ++text) {
      reference::Matrix keys;
      reference::Matrix values;
      for (std::size_t position = 0; position < setup_.at.depth + n_new_; ++position) {
        const auto token = static_cast<std::size_t>(token_at(text, position, kVocab));
        keys.push_back(k[token]);
        values.push_back(v[token]);
        if (position < setup_.at.depth) continue;
        reference::Vector x = q[token];
        for (std::size_t layer = 0; layer < n_layers_; ++layer)
          x = reference::attention(x, keys, values, o.n_heads, o.head_dim, mask_of(o));
        result.push_back(std::move(x));
      }
    }
    return result;
  }

  // float32 sums; for the reference does not round as types with blocks do, their rounding on top.
  double bound() const {
    const auto rounding = [](DType dtype) {
      if (traits(dtype).block_elements == 1) return 0.0;
      return dtype == DType::Q8_0 ? 0.02 : 0.25;
    };
    return 1e-5 + rounding(setup_.at.k_dtype) + rounding(setup_.at.v_dtype);
  }

  const Setup& setup_;
  const std::size_t n_new_;
  const std::size_t n_layers_;
  const bool all_rows_;
  const Inputs inputs_;
  std::shared_ptr<const Program> write_program_;
  std::unique_ptr<Executable> write_;
  std::unique_ptr<Executable> attend_;
  Texts texts_;
  StepInputs step_{};
};

std::size_t decode_layers(const Setup& setup) {
  const std::size_t bytes = setup.at.batch * (setup.at.depth + 1) * kv_token_bytes(setup);
  return std::clamp<std::size_t>(kStreamedBytes / bytes, 1, kMostLayers);
}

std::size_t prefill_layers(const Setup& setup) {
  const std::size_t n = setup.options.prompt;
  const std::size_t pairs = setup.at.batch * n * (setup.at.depth + n);
  return std::clamp<std::size_t>(kPrefillPairs / pairs, 1, kMostLayers);
}

void check(const Setup& setup) {
  const Options& o = setup.options;
  const Inputs inputs = make_inputs(o, true);
  const StepLimits limits{setup.at.batch};
  (void)setup.device->memory_needs(*attention_program(o, inputs, 1), limits);
  const auto writing = write_program(o, inputs, 1);
  (void)setup.device->memory_needs(*writing, limits);
  (void)setup.device->kv_block_bytes(*writing, o.block_size, setup.at.k_dtype, setup.at.v_dtype);
}

std::string shape(const Options& o) {
  return "heads=" + std::to_string(o.n_heads) + " kv_heads=" + std::to_string(o.n_kv_heads) +
         " head_dim=" + std::to_string(o.head_dim);
}
std::string prefill_shape(const Options& o) {
  return shape(o) + " prompt=" + std::to_string(o.prompt);
}

Performance measure_decode(const Setup& setup) {
  return Bench(setup, 1, decode_layers(setup), false).attention_performance();
}
Performance measure_prefill(const Setup& setup) {
  return Bench(setup, setup.options.prompt, prefill_layers(setup), false).attention_performance();
}
Performance measure_write(const Setup& setup) {
  return Bench(setup, 1, kMostLayers, false).write_performance();
}
Comparison compare_decode(const Setup& setup) { return Bench(setup, 1, 2, true).comparison(); }
Comparison compare_prefill(const Setup& setup) {
  return Bench(setup, setup.options.prompt, 1, true).comparison();
}

constexpr Axes kAxes{.cache = true, .kv_dtypes = true, .depth = true, .batch = true};
constexpr OpSpec kOps[] = {
    {"attention_decode", kAxes, shape, check, measure_decode, compare_decode},
    {"attention_prefill", kAxes, prefill_shape, check, measure_prefill, compare_prefill},
    // What was written is seen through attention.
    {"kv_write", kAxes, shape, check, measure_write, compare_decode},
};

}  // namespace

std::span<const OpSpec> attention_ops() { return kOps; }

}  // namespace quarrel::bench
