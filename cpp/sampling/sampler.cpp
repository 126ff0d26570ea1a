#include "sampling/sampler.h"

#include <algorithm>
#include <cassert>
#include <cmath>
#include <limits>
#include <string>

#include "core/error.h"
#include "sampling/philox.h"

namespace quarrel {
namespace {

void require(bool holds, const char* field, const char* range, const std::string& value) {
  if (!holds)
    throw InvalidArgument("[sampler] expected " + std::string(field) + " " + range + ", got " +
                          value + ".");
}

void require(bool holds, const char* field, const char* range, double value) {
  if (!holds) require(false, field, range, std::to_string(value));
}

void require(bool holds, const char* field, const char* range, std::int64_t value) {
  if (!holds) require(false, field, range, std::to_string(value));
}

void check_bias(SamplingOptions& options, std::size_t vocab_size) {
  auto& biases = options.logit_bias;
  std::ranges::sort(biases);
  for (std::size_t i = 0; i < biases.size(); ++i) {
    const auto& [id, bias] = biases[i];
    require(id >= 0 && static_cast<std::size_t>(id) < vocab_size, "logit_bias",
            "for token ids inside the vocabulary", std::int64_t{id});
    require(bias < std::numeric_limits<double>::infinity(), "logit_bias", "to be finite or -inf",
            bias);
    require(i == 0 || biases[i - 1].first != id, "logit_bias", "to name a token once",
            std::int64_t{id});
  }
}

void check(SamplingOptions& options, std::size_t vocab_size) {
  const auto& o = options;
  require(vocab_size > 0 && vocab_size <= std::numeric_limits<std::int32_t>::max(), "vocab_size",
          "from 1 to 2147483647", std::to_string(vocab_size));
  require(o.temperature >= 0 && std::isfinite(o.temperature), "temperature",
          "to be 0 or a positive finite number", o.temperature);
  require(o.top_k >= 0, "top_k", "to be 0 (off) or more", o.top_k);
  require(o.top_p > 0 && o.top_p <= 1, "top_p", "above 0 and up to 1", o.top_p);
  require(o.min_p >= 0 && o.min_p <= 1, "min_p", "from 0 to 1", o.min_p);
  require(o.repetition_penalty > 0 && std::isfinite(o.repetition_penalty), "repetition_penalty",
          "to be a positive finite number", o.repetition_penalty);
  require(std::isfinite(o.presence_penalty), "presence_penalty", "to be finite",
          o.presence_penalty);
  require(std::isfinite(o.frequency_penalty), "frequency_penalty", "to be finite",
          o.frequency_penalty);
  require(o.penalty_window >= -1, "penalty_window", "to be -1 (all), 0 (off) or more",
          o.penalty_window);
  if (o.n_logprobs)
    require(*o.n_logprobs >= 0 && *o.n_logprobs <= static_cast<std::int64_t>(vocab_size),
            "n_logprobs", "from 0 to the vocabulary's size", *o.n_logprobs);
  check_bias(options, vocab_size);
}

// Whether these options make use of history at all.
bool has_penalty(const SamplingOptions& o) {
  return o.penalty_window != 0 &&
         (o.repetition_penalty != 1.0 || o.presence_penalty != 0.0 || o.frequency_penalty != 0.0);
}

// A logit after bias and penalties. Extreme options saturate instead of overflowing: only a bias
// of -inf bans a token, and nothing makes one certain.
float edited_logit(const SamplingOptions& o, float logit, double bias, std::uint32_t count) {
  double value = static_cast<double>(logit) + bias;
  if (value == -std::numeric_limits<double>::infinity()) return static_cast<float>(value);
  if (count > 0) {
    value = value > 0 ? value / o.repetition_penalty : value * o.repetition_penalty;
    value -= o.presence_penalty + o.frequency_penalty * count;
  }
  constexpr double kLargest = std::numeric_limits<float>::max();
  return static_cast<float>(std::clamp(value, -kLargest, kLargest));
}

// Brings the k best to the front, best first.
std::span<Candidate> keep_best(std::span<Candidate> candidates, std::size_t k) {
  if (k < candidates.size()) {
    std::ranges::nth_element(candidates, candidates.begin() + static_cast<std::ptrdiff_t>(k),
                             ranks_before);
    candidates = candidates.first(k);
  }
  std::ranges::sort(candidates, ranks_before);
  return candidates;
}

// The k best tokens of the row, best first.
std::span<Candidate> best_of(const LogitBlocks& blocks, std::size_t k, SamplerWorkspace& ws) {
  const float bound = blocks.lower_bound_of_kth(k, ws.block_scratch);
  const std::size_t count = blocks.collect(bound, ws.candidates);
  return keep_best(std::span(ws.candidates).first(count), k);
}

// Of candidates sorted best first, the shortest run whose unnormalised probabilities reach
// `target`.
std::span<Candidate> keep_mass(std::span<Candidate> sorted, double max, double target) {
  double cumulative = 0.0;
  for (std::size_t i = 0; i < sorted.size(); ++i) {
    cumulative += exp_nonpositive(sorted[i].logit - max);
    if (cumulative >= target) return sorted.first(i + 1);
  }
  return sorted;
}

std::span<const Candidate> chunk_of(std::span<const Candidate> candidates, std::size_t index) {
  const std::size_t begin = index * kChunk;
  return candidates.subspan(begin, std::min(kChunk, candidates.size() - begin));
}

void weigh(std::span<const Candidate> chunk, double max, double inverse_temperature,
           std::array<double, kChunk>& weights) {
  chunk_weights(
      chunk.size(), [&](std::size_t i) { return chunk[i].logit; }, max, inverse_temperature,
      weights);
}

// Sum of the candidates' unnormalised probabilities; sums[i] becomes that of their i-th chunk.
double candidate_mass(std::span<const Candidate> candidates, double max, double inverse_temperature,
                      std::span<double> sums) {
  std::array<double, kChunk> weights;
  double total = 0.0;
  for (std::size_t i = 0; i < LogitBlocks::n_blocks(candidates.size()); ++i) {
    weigh(chunk_of(candidates, i), max, inverse_temperature, weights);
    sums[i] = chunk_sum(weights);
    total += sums[i];
  }
  return total;
}

// The chunk in whose share of the mass `target` falls; target becomes relative to that chunk. When
// rounding carries the target past the total it is the last chunk with mass, never an empty one.
std::size_t find_chunk(std::span<const double> sums, double& target) {
  std::size_t chosen = 0;
  double before = 0.0, before_chosen = 0.0;
  for (std::size_t i = 0; i < sums.size() && before <= target; before += sums[i], ++i)
    if (sums[i] > 0) {
      chosen = i;
      before_chosen = before;
    }
  target -= before_chosen;
  return chosen;
}

// Inverse transform sampling: the candidate in whose share of the mass `uniform` falls.
std::int32_t draw(std::span<const Candidate> candidates, double max, double inverse_temperature,
                  double uniform, std::span<double> sums) {
  sums = sums.first(LogitBlocks::n_blocks(candidates.size()));
  double target = uniform * candidate_mass(candidates, max, inverse_temperature, sums);
  const auto chunk = chunk_of(candidates, find_chunk(sums, target));
  std::array<double, kChunk> weights;
  weigh(chunk, max, inverse_temperature, weights);
  std::size_t chosen = 0;
  double before = 0.0;
  for (std::size_t i = 0; i < chunk.size() && before <= target; before += weights[i], ++i)
    if (weights[i] > 0) chosen = i;
  return chunk[chosen].id;
}

}  // namespace

SamplerWorkspace::SamplerWorkspace(std::size_t vocab_size)
    : block_max(LogitBlocks::n_blocks(vocab_size)),
      block_scratch(block_max.size()),
      chunk_sums(block_max.size()),
      candidates(vocab_size) {}

std::size_t SamplerWorkspace::size_bytes() const {
  return (block_max.capacity() + block_scratch.capacity()) * sizeof(float) +
         chunk_sums.capacity() * sizeof(double) + candidates.capacity() * sizeof(Candidate) +
         edits.capacity() * sizeof(LogitEdit);
}

Sampler::Sampler(SamplingOptions options, std::size_t vocab_size)
    : options_((check(options, vocab_size), std::move(options))),
      vocab_size_(vocab_size),
      history_(has_penalty(options_) ? options_.penalty_window : 0) {}

void Sampler::accept(std::int32_t token_id) {
  if (token_id < 0 || static_cast<std::size_t>(token_id) >= vocab_size_)
    throw InvalidArgument("[sampler.accept] expected a token id below the vocabulary's size of " +
                          std::to_string(vocab_size_) + ", got " + std::to_string(token_id) + ".");
  history_.accept(token_id);
}

LogitBlocks Sampler::scan(std::span<const float> logits, SamplerWorkspace& ws) const {
  if (logits.size() != vocab_size_ || ws.vocab_size() != vocab_size_)
    throw InvalidArgument("[sample] expected " + std::to_string(vocab_size_) +
                          " logits and a workspace for as many, got " +
                          std::to_string(logits.size()) + " and " +
                          std::to_string(ws.vocab_size()) + ".");
  return LogitBlocks(logits, ws.block_max);
}

void Sampler::lay_edits(std::span<const float> logits, LogitBlocks& blocks,
                        SamplerWorkspace& ws) const {
  auto bias = options_.logit_bias.begin();
  const auto last_bias = options_.logit_bias.end();
  const auto counts = history_.counts();
  auto seen = counts.begin();
  ws.edits.clear();
  while (bias != last_bias || seen != counts.end()) {
    const bool takes_bias = seen == counts.end() || (bias != last_bias && bias->first <= seen->id);
    const bool takes_seen = bias == last_bias || (seen != counts.end() && seen->id <= bias->first);
    const std::int32_t id = takes_bias ? bias->first : seen->id;
    const float logit = logits[static_cast<std::size_t>(id)];
    ws.edits.push_back({id, edited_logit(options_, logit, takes_bias ? bias->second : 0.0,
                                         takes_seen ? seen->count : 0)});
    if (takes_bias) ++bias;
    if (takes_seen) ++seen;
  }
  if (!ws.edits.empty()) blocks.lay_over(ws.edits);
}

double Sampler::log_min_p() const {
  return options_.min_p > 0 ? std::log(options_.min_p) : -std::numeric_limits<double>::infinity();
}

double Sampler::inverse_temperature() const {
  // A temperature too small to invert is as good as the largest number: 0 * it stays 0.
  return std::min(1.0 / options_.temperature, std::numeric_limits<double>::max());
}

std::span<Candidate> Sampler::filter_after_top_k(std::span<Candidate> kept, double max,
                                                 SamplerWorkspace& ws) const {
  if (options_.top_p < 1) {
    const double total = candidate_mass(kept, max, 1.0, ws.chunk_sums);
    kept = keep_mass(kept, max, options_.top_p * total);
  }
  const double bound = max + log_min_p();
  const auto below = std::ranges::find_if(kept, [&](const auto& c) { return c.logit < bound; });
  return {kept.begin(), below};
}

std::span<Candidate> Sampler::filter_without_top_k(const LogitBlocks& blocks,
                                                   SamplerWorkspace& ws) const {
  const double max = blocks.max();
  const double min_p_bound = max + log_min_p();
  if (options_.top_p == 1)
    return std::span(ws.candidates).first(blocks.collect(min_p_bound, ws.candidates));
  const auto [target_mass, lower_bound] = blocks.nucleus(options_.top_p);
  const double bound = std::max(min_p_bound, lower_bound);
  const auto kept = std::span(ws.candidates).first(blocks.collect(bound, ws.candidates));
  return keep_mass(keep_best(kept, kept.size()), max, target_mass);
}

std::span<Candidate> Sampler::filter(const LogitBlocks& blocks, SamplerWorkspace& ws) const {
  if (!filters_by_rank()) return filter_without_top_k(blocks, ws);
  const auto kept = best_of(blocks, static_cast<std::size_t>(options_.top_k), ws);
  return filter_after_top_k(kept, blocks.max(), ws);
}

bool Sampler::filters_by_rank() const {
  return options_.top_k > 0 && options_.top_k < static_cast<std::int64_t>(vocab_size_);
}

std::size_t Sampler::n_best() const {
  if (options_.n_logprobs || !options_.logit_bias.empty() || has_penalty(options_)) return 0;
  if (options_.temperature == 0) return 1;
  return filters_by_rank() ? static_cast<std::size_t>(options_.top_k) : 0;
}

std::int32_t Sampler::draw_from(std::span<const Candidate> kept, double max, std::uint64_t position,
                                SamplerWorkspace& ws) const {
  return draw(kept, max, inverse_temperature(),
              uniform_at(options_.seed, position, options_.stream), ws.chunk_sums);
}

SampledToken Sampler::sample_best(std::span<const float> logits, std::uint64_t position,
                                  SamplerWorkspace& ws, std::span<const std::uint32_t> best) const {
  SampledToken sampled;
  sampled.token_id = static_cast<std::int32_t>(best.front());
  if (options_.temperature == 0) return sampled;
  std::size_t n = 0;
  for (const std::uint32_t id : best)
    if (const float logit = logits[id]; logit > -std::numeric_limits<float>::infinity())
      ws.candidates[n++] = {logit, static_cast<std::int32_t>(id)};
  const double max = logits[best.front()];
  const auto kept = filter_after_top_k(std::span(ws.candidates).first(n), max, ws);
  sampled.token_id = draw_from(kept, max, position, ws);
  return sampled;
}

SampledToken Sampler::sample(std::span<const float> logits, std::uint64_t position,
                             SamplerWorkspace& ws, std::span<const std::uint32_t> best) const {
  // What is not finite is for scan() to refuse.
  if (const std::size_t n = n_best();
      n > 0 && n <= best.size() && std::isfinite(logits[best.front()]))
    return sample_best(logits, position, ws, best.first(n));
  LogitBlocks blocks = scan(logits, ws);
  SampledToken sampled;
  double log_normaliser = 0.0;
  if (options_.n_logprobs) {
    log_normaliser = blocks.max() + std::log(blocks.mass());
    if (const auto n = static_cast<std::size_t>(*options_.n_logprobs); n > 0)
      for (const Candidate& best : best_of(blocks, n, ws))
        sampled.top_logprobs.push_back({best.id, best.logit - log_normaliser});
  }
  lay_edits(logits, blocks, ws);
  sampled.token_id = options_.temperature == 0
                         ? blocks.argmax()
                         : draw_from(filter(blocks, ws), blocks.max(), position, ws);
  if (options_.n_logprobs)
    sampled.logprob = logits[static_cast<std::size_t>(sampled.token_id)] - log_normaliser;
  return sampled;
}

std::vector<TokenProbability> Sampler::distribution(std::span<const float> logits,
                                                    SamplerWorkspace& ws) const {
  LogitBlocks blocks = scan(logits, ws);
  lay_edits(logits, blocks, ws);
  if (options_.temperature == 0) return {{blocks.argmax(), 1.0}};
  const auto kept = filter(blocks, ws);
  const double max = blocks.max(), scale = inverse_temperature();
  const double total = candidate_mass(kept, max, scale, ws.chunk_sums);
  std::vector<TokenProbability> result;
  result.reserve(kept.size());
  for (const Candidate& c : kept)
    result.push_back({c.id, exp_nonpositive((c.logit - max) * scale) / total});
  return result;
}

std::vector<SampledToken> sample_batch(std::span<const Sampler* const> samplers,
                                       std::span<const float> logits,
                                       std::span<const std::uint64_t> positions,
                                       SamplerWorkspace& workspace,
                                       std::span<const std::uint32_t> best) {
  const std::size_t n = samplers.size();
  if (positions.size() != n || logits.size() != n * workspace.vocab_size())
    throw InvalidArgument("[sample_batch] expected as many positions and rows of logits as the " +
                          std::to_string(n) + " samplers, got " + std::to_string(positions.size()) +
                          " positions and " + std::to_string(logits.size()) + " logits for " +
                          std::to_string(workspace.vocab_size()) + " tokens.");
  const std::size_t k = n > 0 ? best.size() / n : 0;
  std::vector<SampledToken> sampled;
  sampled.reserve(n);
  for (std::size_t i = 0; i < n; ++i) {
    const auto row = logits.subspan(i * workspace.vocab_size(), workspace.vocab_size());
    try {
      sampled.push_back(samplers[i]->sample(row, positions[i], workspace, best.subspan(i * k, k)));
    } catch (const InvalidArgument& error) {
      throw InvalidArgument("[sample_batch] row " + std::to_string(i) + ": " + error.what());
    }
  }
  return sampled;
}

}  // namespace quarrel
