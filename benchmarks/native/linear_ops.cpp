// linear_decode and linear_prefill: y = x W^T for each of several matrices, and the sum of all y.
#include <algorithm>
#include <cmath>
#include <vector>

#include "op.h"
#include "random_weights.h"
#include "reference.h"
#include "texts.h"

namespace quarrel::bench {
namespace {

constexpr std::size_t kVocab = 61;  // distinct rows of x
constexpr std::size_t kStreamedBytes = std::size_t{64} << 20;
constexpr std::size_t kMostMatrices = 64;
constexpr std::size_t kPrefillMatrices = 2;

std::vector<Weight> matrices(const Setup& setup, std::size_t n) {
  const Options& o = setup.options;
  const float size = 1 / std::sqrt(static_cast<float>(o.n_in));
  std::vector<Weight> all;
  for (std::size_t i = 0; i < n; ++i)
    all.push_back(random_weight("w", setup.at.weight_dtype, o.n_out, o.n_in, size, i));
  return all;
}

// A program has a cache, even where nothing looks into it.
std::shared_ptr<const Program> linear_program(const Weight& x_table,
                                              const std::vector<Weight>& weights) {
  ProgramBuilder builder({KVLayer{1, 16, 0}});
  const ValueId x = builder.embedding(builder.weight(x_table), 1.0f);
  ValueId sum = builder.linear(x, builder.weight(weights[0]), std::nullopt);
  for (std::size_t i = 1; i < weights.size(); ++i)
    sum = builder.add(sum, builder.linear(x, builder.weight(weights[i]), std::nullopt), 1.0f);
  return builder.finish(builder.select_rows(sum));
}

// n_tokens: per sequence.
class Bench {
 public:
  Bench(const Setup& setup, std::size_t n_tokens, std::size_t n_matrices, bool all_rows)
      : setup_(setup),
        n_tokens_(n_tokens),
        x_(random_weight("x", DType::F32, kVocab, setup.options.n_in, 1, 1000)),
        weights_(matrices(setup, n_matrices)),
        program_(linear_program(x_, weights_)),
        executable_(setup.device->compile(
            program_, {all_tokens(), all_rows ? all_tokens() : setup.at.batch}, setup.ledger)),
        texts_(setup, *program_, n_tokens, kVocab),
        step_(texts_.next(n_tokens, all_rows)) {}

  std::span<const float> run() { return executable_->run(step_, texts_.storage()); }

  Performance performance() {
    const Options& o = setup_.options;
    const Timing timing = measure(o, [] {}, [&] { run(); });
    const auto n = static_cast<double>(all_tokens());
    const auto n_in = static_cast<double>(o.n_in);
    const auto n_out = static_cast<double>(o.n_out);
    const double bytes =
        static_cast<double>(weights_[0].data.size()) + n * (n_in + n_out) * sizeof(float);
    return {timing,        static_cast<double>(weights_.size()), "op", bytes, 2 * n * n_in * n_out,
            hash_of(run())};
  }

  Comparison comparison() {
    const auto rows = run();
    const auto x = reference::expand(x_);
    reference::Matrix expected(all_tokens(), reference::Vector(setup_.options.n_out, 0.0));
    for (const Weight& weight : weights_) {
      const auto w = reference::expand(weight);
      for (std::size_t i = 0; i < expected.size(); ++i) {
        const auto token = token_at(i / n_tokens_, i % n_tokens_, kVocab);
        reference::add(expected[i], reference::linear(w, x[static_cast<std::size_t>(token)]));
      }
    }
    // Against float matrices sums are float32; else activations are rounded, to 16 bits at least.
    const bool is_float = traits(setup_.at.weight_dtype).block_elements == 1;
    return {reference::distance(rows, expected), is_float ? 1e-5 : 2e-4, hash_of(rows)};
  }

 private:
  std::size_t all_tokens() const { return n_tokens_ * setup_.at.batch; }

  const Setup& setup_;
  const std::size_t n_tokens_;
  const Weight x_;
  const std::vector<Weight> weights_;
  std::shared_ptr<const Program> program_;
  std::unique_ptr<Executable> executable_;
  Texts texts_;
  const StepInputs step_;
};

void check(const Setup& setup) {
  const Options& o = setup.options;
  const auto program = linear_program(blank_weight(DType::F32, kVocab, o.n_in),
                                      {blank_weight(setup.at.weight_dtype, o.n_out, o.n_in)});
  (void)setup.device->memory_needs(*program, {setup.at.batch});
}

std::string shape(const Options& o) {
  return "n_in=" + std::to_string(o.n_in) + " n_out=" + std::to_string(o.n_out);
}
std::string prefill_shape(const Options& o) {
  return shape(o) + " prompt=" + std::to_string(o.prompt);
}

// More matrices than caches hold: a model's step finds none of them there.
std::size_t decode_matrices(const Setup& setup) {
  const Options& o = setup.options;
  const std::size_t bytes = o.n_out * row_bytes(setup.at.weight_dtype, o.n_in);
  return std::clamp<std::size_t>(kStreamedBytes / bytes, 1, kMostMatrices);
}

Performance measure_decode(const Setup& setup) {
  return Bench(setup, 1, decode_matrices(setup), false).performance();
}
Performance measure_prefill(const Setup& setup) {
  return Bench(setup, setup.options.prompt, kPrefillMatrices, false).performance();
}
Comparison compare_decode(const Setup& setup) { return Bench(setup, 1, 2, true).comparison(); }
Comparison compare_prefill(const Setup& setup) {
  return Bench(setup, setup.options.prompt, 1, true).comparison();
}

constexpr OpSpec kOps[] = {
    {"linear_decode",
     {.weight_dtype = true, .batch = true},
     shape,
     check,
     measure_decode,
     compare_decode},
    {"linear_prefill",
     {.weight_dtype = true, .batch = true},
     prefill_shape,
     check,
     measure_prefill,
     compare_prefill},
};

}  // namespace

std::span<const OpSpec> linear_ops() { return kOps; }

}  // namespace quarrel::bench
