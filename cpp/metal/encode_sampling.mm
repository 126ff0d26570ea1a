#import "metal/best_tokens.h"

#include <algorithm>

#include "shaders/params.h"

namespace quarrel::metal {
namespace {

constexpr std::size_t kMaxBest = 64;  // above the usual top-k; more is left to the host

std::size_t planned_rows(const StepLimits& limits) {
  return std::min(limits.max_selected_rows, limits.max_tokens);
}

std::size_t vocab_size(const Program& program) { return program.value(program.logits).width; }

std::size_t id_bytes(std::size_t n_rows) { return n_rows * kMaxBest * sizeof(std::uint32_t); }

std::size_t candidate_bytes(const Program& program, std::size_t n_rows) {
  return n_rows * top_k_chunk_count(static_cast<quarrel_uint>(vocab_size(program))) * kMaxBest *
         sizeof(std::uint64_t);
}

}  // namespace

BestTokensEncoder::BestTokensEncoder(const Setup& setup, const StepLimits& limits,
                                     MemoryLedger& ledger)
    : setup_(setup),
      vocab_size_(vocab_size(setup.program)),
      max_rows_(planned_rows(limits)),
      memory_(setup.context.allocate(ledger, MemoryKind::Scratch,
                                     planned_bytes(setup.program, limits))),
      ids_(memory_.range(0, id_bytes(max_rows_))),
      values_(memory_.range(id_bytes(max_rows_), id_bytes(max_rows_))),
      candidates_(
          memory_.range(2 * id_bytes(max_rows_), candidate_bytes(setup.program, max_rows_))),
      argmax_(setup.pipeline("sampling", "argmax")),
      chunks_(setup.pipeline("sampling", "top_k_chunks")),
      merge_(setup.pipeline("sampling", "top_k_merge")) {}

std::size_t BestTokensEncoder::planned_bytes(const Program& program, const StepLimits& limits) {
  const std::size_t n_rows = planned_rows(limits);
  return 2 * id_bytes(n_rows) + candidate_bytes(program, n_rows);
}

void BestTokensEncoder::encode(const Step& step) {
  n_rows_ = step.inputs.selected_rows.size();
  k_ = step.inputs.n_best;
  if (n_rows_ == 0 || n_rows_ > max_rows_ || k_ > std::min(kMaxBest, vocab_size_)) k_ = 0;
  if (k_ == 1) encode_argmax(step, n_rows_);
  if (k_ > 1) encode_top_k(step, n_rows_);
}

void BestTokensEncoder::encode_argmax(const Step& step, std::size_t n_rows) const {
  step.encoder.use(argmax_)
      .read(kArgmaxLogits, setup_.values.rows(setup_.program.logits, 0, n_rows))
      .write(kArgmaxIds, ids_)
      .params(kArgmaxParams, SamplingParams{static_cast<quarrel_uint>(vocab_size_), 1})
      .dispatch({n_rows}, {kSamplingThreads});
}

void BestTokensEncoder::encode_top_k(const Step& step, std::size_t n_rows) const {
  const auto n = static_cast<quarrel_uint>(vocab_size_);
  const SamplingParams params{n, static_cast<quarrel_uint>(k_)};
  step.encoder.use(chunks_)
      .read(kTopKLogits, setup_.values.rows(setup_.program.logits, 0, n_rows))
      .write(kTopKCandidates, candidates_)
      .params(kTopKParams, params)
      .dispatch({top_k_chunk_count(n), n_rows}, {kSamplingThreads});
  step.encoder.use(merge_)
      .read(kTopKCandidates, candidates_)
      .write(kTopKIds, ids_)
      .write(kTopKValues, values_)
      .params(kTopKParams, params)
      .dispatch({n_rows}, {kSamplingThreads});
}

BestTokens BestTokensEncoder::result() const {
  return {k_, {reinterpret_cast<const std::uint32_t*>(memory_.data()), n_rows_ * k_}};
}

}  // namespace quarrel::metal
