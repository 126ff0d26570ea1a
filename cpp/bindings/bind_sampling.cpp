// Python face of cpp/sampling: Sampler, SampledToken, SamplerWorkspace, sample_batch.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "core/error.h"
#include "sampling/sampler.h"

namespace nb = nanobind;

namespace quarrel {
namespace {

using LogitRow = nb::ndarray<const float, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using IdMatrix = nb::ndarray<const std::uint32_t, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using LogitMatrix = nb::ndarray<const float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;

template <typename Array>
std::span<const float> values_of(const Array& array) {
  return {array.data(), array.size()};
}

// Runs action(workspace) without the GIL, on the caller's workspace or on one for this call.
template <typename Action>
auto with_workspace(SamplerWorkspace* workspace, std::size_t vocab_size, Action action) {
  nb::gil_scoped_release released;
  if (workspace != nullptr) return action(*workspace);
  SamplerWorkspace temporary(vocab_size);
  return action(temporary);
}

void check_best(const std::optional<IdMatrix>& best, const LogitMatrix& logits) {
  if (!best) return;
  if (best->shape(0) != logits.shape(0))
    throw InvalidArgument("[sample_batch] expected best tokens for each of " +
                          std::to_string(logits.shape(0)) + " rows, got " +
                          std::to_string(best->shape(0)) + " rows.");
  for (std::size_t i = 0; i < best->size(); ++i)
    if (best->data()[i] >= logits.shape(1))
      throw InvalidArgument("[sample_batch] expected best tokens below the vocabulary's size of " +
                            std::to_string(logits.shape(1)) + ", got " +
                            std::to_string(best->data()[i]) + ".");
}

std::vector<SampledToken> sample_rows(const std::vector<const Sampler*>& samplers,
                                      const LogitMatrix& logits,
                                      const std::vector<std::uint64_t>& positions,
                                      SamplerWorkspace* workspace,
                                      const std::optional<IdMatrix>& best) {
  if (logits.shape(0) != samplers.size())
    throw InvalidArgument("[sample_batch] expected one row of logits per sampler, got " +
                          std::to_string(logits.shape(0)) + " rows and " +
                          std::to_string(samplers.size()) + " samplers.");
  const std::span<const std::uint32_t> ids =
      best ? std::span(best->data(), best->size()) : std::span<const std::uint32_t>();
  check_best(best, logits);
  // nanobind turns None into a null pointer.
  if (std::ranges::find(samplers, nullptr) != samplers.end())
    throw InvalidArgument("[sample_batch] expected Sampler objects, got None among them.");
  return with_workspace(workspace, logits.shape(1), [&](SamplerWorkspace& used) {
    return sample_batch(samplers, values_of(logits), positions, used, ids);
  });
}

void bind_results(nb::module_& m) {
  nb::class_<SampledToken>(m, "SampledToken", "What one sampling step gives back.")
      .def_ro("token_id", &SampledToken::token_id)
      .def_ro("logprob", &SampledToken::logprob,
              "Natural log of the token's probability under softmax(logits) as the model gave "
              "them,\nbefore bias, penalties, filters and temperature; None unless logprobs were "
              "asked for.")
      .def_prop_ro(
          "top_logprobs",
          [](const SampledToken& self) {
            std::vector<std::pair<std::int32_t, double>> pairs;
            pairs.reserve(self.top_logprobs.size());
            for (const auto& [id, logprob] : self.top_logprobs) pairs.emplace_back(id, logprob);
            return pairs;
          },
          "The likeliest (token_id, logprob) pairs, best first, equal ones in ascending id.")
      .def("__repr__", [](const SampledToken& self) {
        return "SampledToken(token_id=" + std::to_string(self.token_id) +
               ", logprob=" + (self.logprob ? std::to_string(*self.logprob) : "None") + ")";
      });

  nb::class_<SamplerWorkspace>(m, "SamplerWorkspace",
                               "Scratch memory of sampling: make one per engine and pass it to "
                               "every call, one call at a time.")
      .def(nb::init<std::size_t>(), nb::arg("vocab_size"))
      .def_prop_ro("vocab_size", &SamplerWorkspace::vocab_size)
      .def_prop_ro("size_bytes", &SamplerWorkspace::size_bytes);
}

void bind_sampler(nb::module_& m) {
  const SamplingOptions neutral;
  nb::class_<Sampler>(
      m, "Sampler",
      "Draws the tokens of one request.\n\n"
      "Steps, in the order of llama.cpp's default chain: logit bias, penalties, top-k, top-p, "
      "min-p,\ntemperature, draw. top-p and min-p look at probabilities before temperature. The "
      "defaults change\nnothing. Raises UsageError when an option is out of its range.")
      .def(
          "__init__",
          [](Sampler* self, std::size_t vocab_size, double temperature, std::int64_t top_k,
             double top_p, double min_p, double repetition_penalty, double presence_penalty,
             double frequency_penalty, std::int64_t penalty_window, std::uint64_t seed,
             std::uint32_t stream, std::vector<std::pair<std::int32_t, double>> logit_bias,
             std::optional<std::int64_t> n_logprobs) {
            SamplingOptions options{.temperature = temperature,
                                    .top_k = top_k,
                                    .top_p = top_p,
                                    .min_p = min_p,
                                    .repetition_penalty = repetition_penalty,
                                    .presence_penalty = presence_penalty,
                                    .frequency_penalty = frequency_penalty,
                                    .penalty_window = penalty_window,
                                    .seed = seed,
                                    .stream = stream,
                                    .logit_bias = std::move(logit_bias),
                                    .n_logprobs = n_logprobs};
            new (self) Sampler(std::move(options), vocab_size);
          },
          nb::arg("vocab_size"), nb::kw_only(), nb::arg("temperature") = neutral.temperature,
          nb::arg("top_k") = neutral.top_k, nb::arg("top_p") = neutral.top_p,
          nb::arg("min_p") = neutral.min_p,
          nb::arg("repetition_penalty") = neutral.repetition_penalty,
          nb::arg("presence_penalty") = neutral.presence_penalty,
          nb::arg("frequency_penalty") = neutral.frequency_penalty,
          nb::arg("penalty_window") = neutral.penalty_window, nb::arg("seed") = neutral.seed,
          nb::arg("stream") = neutral.stream, nb::arg("logit_bias") = nb::make_tuple(),
          nb::arg("n_logprobs") = nb::none())
      .def_prop_ro("vocab_size", &Sampler::vocab_size)
      .def_prop_ro("n_best", &Sampler::n_best,
                   "How many tokens with the largest logits decide; 0 where the whole row does.")
      .def_prop_ro("seed", [](const Sampler& self) { return self.options().seed; })
      .def("accept", &Sampler::accept, nb::arg("token_id"),
           "Remembers a token, of the prompt or sampled, for the penalties.")
      .def(
          "accept_all",
          [](Sampler& self, const std::vector<std::int32_t>& token_ids) {
            for (const std::int32_t id : token_ids) self.accept(id);
          },
          nb::arg("token_ids"),
          nb::sig("def accept_all(self, token_ids: collections.abc.Sequence[int] | "
                  "numpy.typing.NDArray[numpy.int32]) -> None"),
          "accept() for each of these tokens, in their order.")
      .def(
          "sample",
          [](const Sampler& self, const LogitRow& logits, std::uint64_t position,
             SamplerWorkspace* workspace) {
            return with_workspace(workspace, self.vocab_size(), [&](SamplerWorkspace& used) {
              return self.sample(values_of(logits), position, used);
            });
          },
          nb::arg("logits").noconvert(), nb::arg("position"),
          nb::arg("workspace").none() = nb::none(),
          "The token for this position; logits: [vocab_size] float32. The random number depends "
          "on\nseed, stream and position alone. Raises UsageError for NaN or +inf, or when no "
          "logit is\nabove -inf.")
      .def(
          "distribution",
          [](const Sampler& self, const LogitRow& logits, SamplerWorkspace* workspace) {
            const auto kept = with_workspace(
                workspace, self.vocab_size(),
                [&](SamplerWorkspace& used) { return self.distribution(values_of(logits), used); });
            std::vector<std::pair<std::int32_t, double>> pairs;
            pairs.reserve(kept.size());
            for (const auto& [id, probability] : kept) pairs.emplace_back(id, probability);
            return pairs;
          },
          nb::arg("logits").noconvert(), nb::arg("workspace").none() = nb::none(),
          "The (token_id, probability) pairs that sample() draws from; logits: [vocab_size] "
          "float32.");
}

}  // namespace

void bind_sampling(nb::module_& m) {
  bind_results(m);
  bind_sampler(m);
  m.def(
      "sample_batch", &sample_rows, nb::arg("samplers"), nb::arg("logits").noconvert(),
      nb::arg("positions"), nb::arg("workspace").none() = nb::none(),
      nb::arg("best").none() = nb::none(),
      nb::sig("def sample_batch(samplers: collections.abc.Sequence[Sampler], logits: memoryview | "
              "numpy.typing.NDArray[numpy.float32], positions: collections.abc.Sequence[int], "
              "workspace: SamplerWorkspace | None = None, best: memoryview | "
              "numpy.typing.NDArray[numpy.uint32] | None = None) -> list[SampledToken]"),
      "Samples one token per row in one native call, without the GIL.\n\n"
      "logits: [n, vocab_size] float32; row i is drawn by samplers[i] for positions[i]. best: "
      "[n, k]\nuint32, the tokens with the k largest logits of each row, in their order: a "
      "sampler whose n_best\nis at most k then reads no others. Raises UsageError like "
      "Sampler.sample, naming the row.");
}

}  // namespace quarrel
