#include <doctest/doctest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <map>
#include <numeric>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "core/error.h"
#include "sampling/exponential.h"
#include "sampling/philox.h"
#include "sampling/sampler.h"
#include "sampling/token_history.h"

using namespace quarrel;

namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

// Normal logits; `step` > 0 rounds them to multiples of it, which makes ties.
std::vector<float> random_logits(std::size_t n, unsigned seed, float step = 0) {
  std::mt19937 generator(seed);
  std::vector<float> logits(n);
  for (float& logit : logits) {
    // Sum of twelve uniforms, because std::normal_distribution differs between libraries.
    double sum = -6;
    for (int i = 0; i < 12; ++i) sum += generator() * 0x1p-32;
    logit = static_cast<float>(3 * sum);
    if (step > 0) logit = std::round(logit / step) * step;
  }
  return logits;
}

// Probabilities after the chain by the plainest means: full sort, std::exp, no blocks.
std::map<std::int32_t, double> reference_distribution(std::vector<float> logits,
                                                      const SamplingOptions& options) {
  std::vector<std::int32_t> order(logits.size());
  std::iota(order.begin(), order.end(), 0);
  std::ranges::stable_sort(order, [&](auto a, auto b) {
    return logits[static_cast<std::size_t>(a)] > logits[static_cast<std::size_t>(b)];
  });
  const auto logit = [&](std::int32_t id) { return double{logits[static_cast<std::size_t>(id)]}; };
  const double max = logit(order[0]);
  const auto weight = [&](std::int32_t id, double temperature) {
    return std::exp((logit(id) - max) / temperature);
  };
  if (options.top_k > 0 && options.top_k < static_cast<std::int64_t>(order.size()))
    order.resize(static_cast<std::size_t>(options.top_k));
  if (options.top_p < 1) {
    double total = 0, reached = 0;
    for (const auto id : order) total += weight(id, 1);
    std::size_t kept = 0;
    while (kept < order.size() && reached < options.top_p * total)
      reached += weight(order[kept++], 1);
    order.resize(kept);
  }
  std::erase_if(order, [&](auto id) {
    return logit(id) == -kInfinity ||
           (options.min_p > 0 && logit(id) < max + std::log(options.min_p));
  });
  double total = 0;
  for (const auto id : order) total += weight(id, options.temperature);
  std::map<std::int32_t, double> result;
  for (const auto id : order) result[id] = weight(id, options.temperature) / total;
  return result;
}

void check_distribution(const std::vector<float>& logits, const SamplingOptions& options) {
  CAPTURE(options.top_k);
  CAPTURE(options.top_p);
  CAPTURE(options.min_p);
  CAPTURE(options.temperature);
  SamplerWorkspace workspace(logits.size());
  const auto kept = Sampler(options, logits.size()).distribution(logits, workspace);
  const auto expected = reference_distribution(logits, options);
  REQUIRE(kept.size() == expected.size());
  for (const auto& [id, probability] : kept) {
    REQUIRE(expected.contains(id));
    CHECK(std::abs(probability - expected.at(id)) < 1e-12);
  }
}

std::string refusal(SamplingOptions options, std::size_t vocab_size = 10) {
  try {
    const Sampler sampler(std::move(options), vocab_size);
  } catch (const InvalidArgument& error) {
    return error.what();
  }
  return "";
}

bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

SampledToken sample_once(const SamplingOptions& options, const std::vector<float>& logits,
                         std::uint64_t position = 0) {
  SamplerWorkspace workspace(logits.size());
  return Sampler(options, logits.size()).sample(logits, position, workspace);
}

}  // namespace

TEST_CASE("exp_nonpositive agrees with std::exp and ends in zero") {
  for (double x = 0; x > -700; x -= 0.00731) {
    const double expected = std::exp(x);
    REQUIRE(std::abs(exp_nonpositive(x) - expected) <= 1e-14 * expected);
  }
  CHECK(exp_nonpositive(0.0) == 1.0);
  CHECK(exp_nonpositive(-710.0) == 0.0);
  CHECK(exp_nonpositive(-1e300) == 0.0);
  CHECK(exp_nonpositive(-std::numeric_limits<double>::infinity()) == 0.0);
}

TEST_CASE("greedy takes the largest logit, the lowest id of equal ones, whatever the seed") {
  for (const std::size_t n : {1UL, 2UL, 63UL, 64UL, 65UL, 1000UL, 4097UL})
    for (unsigned round = 0; round < 20; ++round) {
      const auto logits = random_logits(n, round, round % 2 ? 2.0F : 0.0F);
      const auto expected = std::ranges::max_element(logits) - logits.begin();
      for (const std::uint64_t seed : {0ULL, 99ULL})
        CHECK(sample_once({.temperature = 0, .top_k = 3, .seed = seed}, logits).token_id ==
              expected);
    }
}

TEST_CASE("filters keep what a full sort keeps, with the same probabilities") {
  for (const std::size_t n : {1UL, 7UL, 64UL, 130UL, 5000UL})
    for (const float step : {0.0F, 1.5F}) {
      const auto logits = random_logits(n, static_cast<unsigned>(n), step);
      for (const std::int64_t top_k : {0, 1, 5, 40, 200, 100000})
        for (const double top_p : {1.0, 0.95, 0.5, 1e-9})
          for (const double min_p : {0.0, 0.05, 1.0})
            check_distribution(
                logits, {.temperature = 0.8, .top_k = top_k, .top_p = top_p, .min_p = min_p});
    }
}

TEST_CASE("flat and extreme logits") {
  check_distribution(std::vector<float>(1000, 2.5F), {.top_p = 0.5});
  check_distribution(std::vector<float>(1000, 2.5F), {.top_k = 40, .top_p = 0.5, .min_p = 0.1});
  check_distribution({3e38F, -3e38F, 1e38F, 0.0F}, {.temperature = 1e30});
  check_distribution({-1e30F, -2e30F}, {.temperature = 100, .top_p = 0.9});
  CHECK(sample_once({.temperature = 5e-324}, {1.0F, 2.0F, 1.5F}).token_id == 1);
}

TEST_CASE("masked tokens are never drawn") {
  std::vector<float> logits(200, -kInfinity);
  logits[70] = -5;
  logits[130] = -5;
  for (const SamplingOptions& options :
       {SamplingOptions{}, SamplingOptions{.top_k = 50}, SamplingOptions{.top_p = 0.999999},
        SamplingOptions{.temperature = 1e300}})
    check_distribution(logits, options);
  std::set<std::int32_t> drawn;
  for (std::uint64_t position = 0; position < 100; ++position)
    drawn.insert(sample_once({.top_p = 0.99}, logits, position).token_id);
  CHECK(drawn == std::set<std::int32_t>{70, 130});
}

TEST_CASE("a draw is the inverse transform of the position's random number") {
  const auto logits = random_logits(500, 3);
  const auto shares = reference_distribution(logits, {});
  for (std::uint64_t position = 0; position < 200; ++position) {
    double before = 0;
    std::int32_t expected = 0;
    const double uniform = uniform_at(17, position, 2);
    for (const auto& [id, share] : shares) {  // without top-k and top-p in ascending id
      if (before <= uniform) expected = id;
      before += share;
    }
    CHECK(sample_once({.seed = 17, .stream = 2}, logits, position).token_id == expected);
  }
}

TEST_CASE("a sampler's past draws do not change its next one") {
  const auto logits = random_logits(3000, 5);
  SamplerWorkspace workspace(logits.size());
  const SamplingOptions options{.temperature = 0.9, .top_k = 40, .top_p = 0.9, .seed = 123};
  const Sampler used(options, logits.size());
  for (std::uint64_t position = 0; position < 50; ++position)
    used.sample(logits, position, workspace);
  for (std::uint64_t position = 0; position < 50; ++position)
    CHECK(used.sample(logits, position, workspace).token_id ==
          sample_once(options, logits, position).token_id);
}

TEST_CASE("bias comes before penalties; a repeated positive logit shrinks, a negative one grows") {
  const std::vector<float> logits{2.0F, -2.0F, 0.5F, 1.0F, 1.0F};
  SamplerWorkspace workspace(logits.size());
  Sampler sampler({.repetition_penalty = 2,
                   .presence_penalty = 0.25,
                   .frequency_penalty = 0.125,
                   .penalty_window = -1,
                   .logit_bias = {{2, 1.5}, {4, -std::numeric_limits<double>::infinity()}}},
                  logits.size());
  for (const std::int32_t id : {0, 0, 0, 1, 2}) sampler.accept(id);
  const double edited[] = {2.0 / 2 - 0.25 - 3 * 0.125, -2.0 * 2 - 0.25 - 0.125,
                           (0.5 + 1.5) / 2 - 0.25 - 0.125, 1.0};
  double total = 0;
  for (const double value : edited) total += std::exp(value);
  const auto kept = sampler.distribution(logits, workspace);
  REQUIRE(kept.size() == 4);
  for (const auto& [id, probability] : kept)
    CHECK(std::abs(probability - std::exp(edited[id]) / total) < 1e-7);  // logits are float
}

TEST_CASE("the largest values an option can ask for saturate") {
  const std::vector<float> logits{3e38F, -3e38F, 0.0F};
  SamplerWorkspace workspace(logits.size());
  Sampler sampler({.temperature = 0,
                   .repetition_penalty = 1e-300,
                   .presence_penalty = -1e308,
                   .frequency_penalty = -1e308,
                   .penalty_window = -1,
                   .logit_bias = {{0, 1e300}, {1, 1e300}}},
                  logits.size());
  for (const std::int32_t id : {0, 1, 1, 2}) sampler.accept(id);
  CHECK(sampler.sample(logits, 0, workspace).token_id == 0);  // three equal ones
}

TEST_CASE("TokenHistory counts exactly the last window tokens") {
  std::mt19937 generator(1);
  for (const std::int64_t window : {0, 1, 3, 64, -1}) {
    TokenHistory history(window);
    std::vector<std::int32_t> all;
    for (int step = 0; step < 300; ++step) {
      all.push_back(static_cast<std::int32_t>(generator() % 20));
      history.accept(all.back());
      const auto n = static_cast<std::int64_t>(all.size());
      const std::int64_t first = window < 0 ? 0 : std::max<std::int64_t>(0, n - window);
      std::map<std::int32_t, std::uint32_t> expected;
      for (std::int64_t i = first; i < n; ++i) ++expected[all[static_cast<std::size_t>(i)]];
      std::map<std::int32_t, std::uint32_t> counted;
      for (const auto& [id, count] : history.counts()) counted[id] = count;
      REQUIRE(counted == expected);
      REQUIRE(std::ranges::is_sorted(history.counts(), {}, &TokenCount::id));
    }
  }
}

TEST_CASE("logprobs are those of the model, before everything the request changes") {
  const auto logits = random_logits(777, 9, 0.5F);
  SamplerWorkspace workspace(logits.size());
  Sampler sampler({.temperature = 0.1,
                   .top_k = 2,
                   .repetition_penalty = 3,
                   .penalty_window = -1,
                   .logit_bias = {{5, 100.0}},
                   .n_logprobs = 6},
                  logits.size());
  sampler.accept(5);
  const auto sampled = sampler.sample(logits, 0, workspace);
  double total = 0;
  for (const float logit : logits) total += std::exp(double{logit});
  const auto expected = [&](std::int32_t id) {
    return logits[static_cast<std::size_t>(id)] - std::log(total);
  };
  CHECK(sampled.token_id == 5);
  REQUIRE(sampled.logprob.has_value());
  CHECK(std::abs(*sampled.logprob - expected(5)) < 1e-12);
  REQUIRE(sampled.top_logprobs.size() == 6);
  std::vector<Candidate> all;
  for (std::int32_t id = 0; id < 777; ++id)
    all.push_back({logits[static_cast<std::size_t>(id)], id});
  std::ranges::sort(all, ranks_before);
  for (std::size_t i = 0; i < 6; ++i) {
    CHECK(sampled.top_logprobs[i].token_id == all[i].id);
    CHECK(std::abs(sampled.top_logprobs[i].logprob - expected(all[i].id)) < 1e-12);
  }
  CHECK_FALSE(sample_once({}, logits).logprob.has_value());
  CHECK(sample_once({.n_logprobs = 0}, logits).logprob.has_value());
}

TEST_CASE("sample_batch gives what each sampler gives alone, and names a bad row") {
  constexpr std::size_t kVocab = 300;
  const Sampler greedy({.temperature = 0}, kVocab), drawn({.top_k = 9, .seed = 4}, kVocab);
  const std::vector<const Sampler*> samplers{&greedy, &drawn, &drawn};
  const std::vector<std::uint64_t> positions{4, 4, 1000000000000};
  auto logits = random_logits(3 * kVocab, 8);
  SamplerWorkspace workspace(kVocab);
  const auto sampled = sample_batch(samplers, logits, positions, workspace);
  REQUIRE(sampled.size() == 3);
  for (std::size_t i = 0; i < 3; ++i) {
    const std::span row(logits.data() + i * kVocab, kVocab);
    CHECK(sampled[i].token_id == samplers[i]->sample(row, positions[i], workspace).token_id);
  }
  logits[2 * kVocab + 17] = kNan;
  CHECK_THROWS_WITH_AS(sample_batch(samplers, logits, positions, workspace),
                       doctest::Contains("row 2: "), InvalidArgument);
  CHECK_THROWS_AS(sample_batch(samplers, std::span(logits).first(300), positions, workspace),
                  InvalidArgument);
}

TEST_CASE("logits that no model should give are refused by name") {
  SamplerWorkspace workspace(130);
  const Sampler sampler({.temperature = 0}, 130);
  const auto sample = [&](std::vector<float> logits) { sampler.sample(logits, 0, workspace); };
  for (const std::size_t place : {0UL, 50UL, 63UL, 64UL, 127UL, 128UL, 129UL}) {
    auto logits = random_logits(130, 2);
    const std::string token = "token " + std::to_string(place) + ";";
    logits[place] = kNan;
    CHECK_THROWS_WITH_AS(sample(logits), doctest::Contains(("NaN for " + token).c_str()),
                         InvalidArgument);
    logits[place] = kInfinity;
    CHECK_THROWS_WITH_AS(sample(logits), doctest::Contains(("+inf for " + token).c_str()),
                         InvalidArgument);
  }
  CHECK_THROWS_WITH_AS(sample(std::vector<float>(130, -kInfinity)),
                       doctest::Contains("every token; the forward pass"), InvalidArgument);
  CHECK_THROWS_AS(sample(std::vector<float>(129)), InvalidArgument);
  const double ban = -std::numeric_limits<double>::infinity();
  CHECK_THROWS_WITH_AS(sample_once({.logit_bias = {{0, ban}, {1, ban}}}, {1.0F, 2.0F}),
                       doctest::Contains("logit_bias"), InvalidArgument);
}

TEST_CASE("an option out of range is refused by name") {
  const double inf = std::numeric_limits<double>::infinity(), nan = std::nan("");
  for (const double bad : {-0.1, nan, inf})
    CHECK(contains(refusal({.temperature = bad}), "temperature"));
  for (const double bad : {0.0, -1.0, 1.01, nan}) CHECK(contains(refusal({.top_p = bad}), "top_p"));
  for (const double bad : {-0.01, 1.01, nan}) CHECK(contains(refusal({.min_p = bad}), "min_p"));
  CHECK(contains(refusal({.top_k = -1}), "top_k"));
  for (const double bad : {0.0, -1.0, inf, nan})
    CHECK(contains(refusal({.repetition_penalty = bad}), "repetition_penalty"));
  CHECK(contains(refusal({.presence_penalty = nan}), "presence_penalty"));
  CHECK(contains(refusal({.frequency_penalty = inf}), "frequency_penalty"));
  CHECK(contains(refusal({.penalty_window = -2}), "penalty_window"));
  CHECK(contains(refusal({.n_logprobs = -1}), "n_logprobs"));
  CHECK(contains(refusal({.n_logprobs = 11}), "n_logprobs"));
  CHECK(contains(refusal({.logit_bias = {{10, 1.0}}}), "logit_bias"));
  CHECK(contains(refusal({.logit_bias = {{-1, 1.0}}}), "logit_bias"));
  CHECK(contains(refusal({.logit_bias = {{1, nan}}}), "logit_bias"));
  CHECK(contains(refusal({.logit_bias = {{1, inf}}}), "logit_bias"));
  CHECK(contains(refusal({.logit_bias = {{1, 1.0}, {1, 2.0}}}), "logit_bias"));
  CHECK(contains(refusal({}, 0), "vocab_size"));
  CHECK(refusal({.temperature = 2, .top_k = 0, .top_p = 1, .min_p = 1, .n_logprobs = 10}) == "");
  Sampler sampler({}, 10);
  CHECK_THROWS_AS(sampler.accept(10), InvalidArgument);
  CHECK_THROWS_AS(sampler.accept(-1), InvalidArgument);
}
