// Draws the next token of a request from a row of logits.
//
// Steps, in the order of llama.cpp's default chain (penalties, top-k, top-p, min-p, temperature;
// its logit bias comes before the chain): logit bias, penalties, top-k, top-p, min-p, temperature,
// draw. top-p and min-p therefore look at probabilities before temperature.
//
// Every sum is in double, in an order fixed by the vocabulary and the candidates alone, and exp is
// our own: a row of logits, a seed and a position give the same token whatever the compiler, the
// instruction set or the batch. Of the C library only log is used, for the bound of min-p and for
// the normaliser of logprobs.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "sampling/logit_blocks.h"
#include "sampling/token_history.h"

namespace quarrel {

// What a request asks of its sampler. The defaults change nothing: they draw from softmax(logits).
struct SamplingOptions {
  double temperature = 1.0;         // >= 0; 0 takes the likeliest token, ties to the lowest id
  std::int64_t top_k = 0;           // >= 0; 0 is off
  double top_p = 1.0;               // (0, 1]; 1 is off (Holtzman et al. 2019, nucleus sampling)
  double min_p = 0.0;               // [0, 1]; 0 is off (Nguyen et al. 2024)
  double repetition_penalty = 1.0;  // > 0; 1 is off (Keskar et al. 2019, CTRL)
  double presence_penalty = 0.0;    // subtracted once from the logit of a token seen
  double frequency_penalty = 0.0;   // subtracted once per time seen
  std::int64_t penalty_window = 0;  // last tokens that penalties see; 0 none, -1 all
  std::uint64_t seed = 0;
  std::uint32_t stream = 0;  // index of a parallel choice: same seed, other numbers
  std::vector<std::pair<std::int32_t, double>> logit_bias = {};  // finite or -inf (ban); unique ids
  // Nothing: no logprobs; 0: of the sampled token; n: also of the n likeliest.
  std::optional<std::int64_t> n_logprobs = {};
};

struct TokenLogprob {
  std::int32_t token_id;
  double logprob;
};

struct TokenProbability {
  std::int32_t token_id;
  double probability;
};

// logprob and top_logprobs are natural logarithms of softmax(logits) as the model gave them, before
// bias, penalties, filters and temperature (the convention of vLLM and of OpenAI's interface).
// Tokens at -inf are left out of top_logprobs.
struct SampledToken {
  std::int32_t token_id = 0;
  std::optional<double> logprob;           // set when n_logprobs is
  std::vector<TokenLogprob> top_logprobs;  // best first, ties in ascending id
};

// Scratch for one sampling call at a time; one per engine serves all its requests. About 8.3 bytes
// per token of the vocabulary.
class SamplerWorkspace {
 public:
  explicit SamplerWorkspace(std::size_t vocab_size);

  std::size_t vocab_size() const { return candidates.size(); }
  std::size_t size_bytes() const;

  std::vector<float> block_max;
  std::vector<float> block_scratch;
  std::vector<double> chunk_sums;
  std::vector<Candidate> candidates;
  std::vector<LogitEdit> edits;
};

class Sampler {
 public:
  // InvalidArgument when an option is out of its range; the message names it.
  Sampler(SamplingOptions options, std::size_t vocab_size);

  // Remembers a token, of the prompt or sampled, for the penalties. InvalidArgument for an id
  // outside the vocabulary.
  void accept(std::int32_t token_id);

  // The token for this position of the sequence. The random number is a function of seed, stream
  // and position alone: a request that was preempted and recomputed draws the same token.
  // logits: [vocab_size]. InvalidArgument when a logit is NaN or +inf or none is above -inf.
  // best: the tokens with the largest logits in their order, if they are known, NaN before all
  // else; where there are n_best() of them the rest of the row is not read, with the same result.
  SampledToken sample(std::span<const float> logits, std::uint64_t position,
                      SamplerWorkspace& workspace, std::span<const std::uint32_t> best = {}) const;
  // How many tokens with the largest logits decide; 0 where the whole row does.
  std::size_t n_best() const;

  // What sample() draws from: the tokens left and their final probabilities.
  std::vector<TokenProbability> distribution(std::span<const float> logits,
                                             SamplerWorkspace& workspace) const;

  std::size_t vocab_size() const { return vocab_size_; }
  const SamplingOptions& options() const { return options_; }

 private:
  bool filters_by_rank() const;
  LogitBlocks scan(std::span<const float> logits, SamplerWorkspace& workspace) const;
  void lay_edits(std::span<const float> logits, LogitBlocks& blocks,
                 SamplerWorkspace& workspace) const;
  std::span<Candidate> filter(const LogitBlocks& blocks, SamplerWorkspace& workspace) const;
  SampledToken sample_best(std::span<const float> logits, std::uint64_t position,
                           SamplerWorkspace& workspace, std::span<const std::uint32_t> best) const;
  // kept: the top-k tokens, best first; max: the largest logit.
  std::span<Candidate> filter_after_top_k(std::span<Candidate> kept, double max,
                                          SamplerWorkspace& workspace) const;
  std::int32_t draw_from(std::span<const Candidate> kept, double max, std::uint64_t position,
                         SamplerWorkspace& workspace) const;
  std::span<Candidate> filter_without_top_k(const LogitBlocks& blocks,
                                            SamplerWorkspace& workspace) const;
  double log_min_p() const;
  double inverse_temperature() const;

  SamplingOptions options_;
  std::size_t vocab_size_;
  TokenHistory history_;
};

// One call for a whole step: row i of logits ([n, vocab_size], row-major) with samplers[i] at
// positions[i]; best: [n, k] or empty, see sample(). InvalidArgument as sample(), the message
// naming the row.
std::vector<SampledToken> sample_batch(std::span<const Sampler* const> samplers,
                                       std::span<const float> logits,
                                       std::span<const std::uint64_t> positions,
                                       SamplerWorkspace& workspace,
                                       std::span<const std::uint32_t> best = {});

}  // namespace quarrel
