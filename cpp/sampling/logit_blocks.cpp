#include "sampling/logit_blocks.h"

#include <algorithm>
#include <cassert>
#include <cmath>
#include <cstring>
#include <limits>
#include <string>

#include "core/error.h"

namespace quarrel {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

using Float32x4 = float __attribute__((vector_size(16)));
using Int32x4 = std::int32_t __attribute__((vector_size(16)));

Float32x4 larger(Float32x4 a, Float32x4 b) { return a > b ? a : b; }

// Largest of a full block, in vectors of the compiler's own because neither GCC nor Clang turns the
// plain loop into vector maxima. A NaN is noticed aside because it loses every comparison.
float full_block_max(const float* x, std::uint32_t& nan_seen) {
  constexpr std::size_t kVectors = 4, kLanes = 4, kStep = kVectors * kLanes;
  std::array<Float32x4, kVectors> best;
  Int32x4 unordered{};
  for (std::size_t i = 0; i < kChunk; i += kStep)
    for (std::size_t v = 0; v < kVectors; ++v) {
      Float32x4 values;
      std::memcpy(&values, x + i + v * kLanes, sizeof(values));
      unordered |= values != values;
      best[v] = i == 0 ? values : larger(values, best[v]);
    }
  const Float32x4 lanes = larger(larger(best[0], best[1]), larger(best[2], best[3]));
  float max = lanes[0];
  for (std::size_t lane = 0; lane < kLanes; ++lane) {
    max = lanes[lane] > max ? lanes[lane] : max;
    nan_seen |= unordered[lane] != 0;
  }
  return max;
}

float any_block_max(std::span<const float> x, std::uint32_t& nan_seen) {
  if (x.size() == kChunk) return full_block_max(x.data(), nan_seen);
  float max = -kInfinity;
  for (const float value : x) {
    max = value > max ? value : max;
    nan_seen |= value != value;
  }
  return max;
}

[[noreturn]] void refuse_value(std::span<const float> logits) {
  const auto bad = std::ranges::find_if(
      logits, [](float value) { return std::isnan(value) || value == kInfinity; });
  throw InvalidArgument("[sample] expected logits that are finite or -inf, got " +
                        std::string(std::isnan(*bad) ? "NaN" : "+inf") + " for token " +
                        std::to_string(bad - logits.begin()) +
                        "; the forward pass that made them is at fault.");
}

}  // namespace

LogitBlocks::LogitBlocks(std::span<const float> logits, std::span<float> block_max)
    : logits_(logits), block_max_(block_max) {
  assert(!logits.empty() && block_max.size() == n_blocks(logits.size()));
  std::uint32_t nan_seen = 0;
  for (std::size_t i = 0; i < block_max_.size(); ++i)
    block_max_[i] = any_block_max(
        logits_.subspan(i * kChunk, std::min(kChunk, logits_.size() - i * kChunk)), nan_seen);
  update_max();
  if (nan_seen || max_ == kInfinity) refuse_value(logits_);
  if (max_ == -kInfinity)
    throw InvalidArgument(
        "[sample] expected at least one logit above -inf, got -inf for every token; the forward "
        "pass that made them is at fault.");
}

void LogitBlocks::lay_over(std::span<const LogitEdit> edits) {
  edits_ = edits;
  Buffer buffer;
  std::uint32_t nan_seen = 0;
  for (std::size_t done = block_max_.size(); const LogitEdit& edit : edits_) {
    const std::size_t index = static_cast<std::size_t>(edit.id) / kChunk;
    if (index == done) continue;
    block_max_[index] = any_block_max(block(index, buffer), nan_seen);
    done = index;
  }
  assert(!nan_seen);
  update_max();
  if (max_ == -kInfinity)
    throw InvalidArgument(
        "[sample] expected logit_bias to leave a token that can be drawn, got -inf for every "
        "token; remove some of the bans.");
}

void LogitBlocks::update_max() {
  max_ = -kInfinity;
  for (const float value : block_max_) max_ = value > max_ ? value : max_;
}

std::span<const float> LogitBlocks::block(std::size_t index, Buffer& buffer) const {
  const std::size_t begin = index * kChunk;
  const auto plain = logits_.subspan(begin, std::min(kChunk, logits_.size() - begin));
  if (edits_.empty()) return plain;
  auto edit =
      std::ranges::lower_bound(edits_, static_cast<std::int32_t>(begin), {}, &LogitEdit::id);
  const auto end = static_cast<std::int32_t>(begin + plain.size());
  if (edit == edits_.end() || edit->id >= end) return plain;
  std::ranges::copy(plain, buffer.begin());
  for (; edit != edits_.end() && edit->id < end; ++edit)
    buffer[static_cast<std::size_t>(edit->id) - begin] = edit->logit;
  return {buffer.data(), plain.size()};
}

std::int32_t LogitBlocks::argmax() const {
  const auto index =
      static_cast<std::size_t>(std::ranges::find(block_max_, max_) - block_max_.begin());
  Buffer buffer;
  const auto values = block(index, buffer);
  const auto offset = static_cast<std::size_t>(std::ranges::find(values, max_) - values.begin());
  return static_cast<std::int32_t>(index * kChunk + offset);
}

float LogitBlocks::lower_bound_of_kth(std::size_t k, std::span<float> scratch) const {
  assert(k > 0 && scratch.size() == block_max_.size());
  if (k > block_max_.size()) return -kInfinity;
  // Each of the k blocks with the largest maxima holds at least one logit of that size.
  std::ranges::copy(block_max_, scratch.begin());
  const auto kth = scratch.begin() + static_cast<std::ptrdiff_t>(k - 1);
  std::ranges::nth_element(scratch, kth, std::ranges::greater());
  return *kth;
}

std::size_t LogitBlocks::collect(double threshold, std::span<Candidate> out) const {
  assert(out.size() >= logits_.size());
  threshold = std::max(threshold, -static_cast<double>(std::numeric_limits<float>::max()));
  std::size_t count = 0;
  Buffer buffer;
  for (std::size_t i = 0; i < block_max_.size(); ++i) {
    if (block_max_[i] < threshold) continue;
    const auto values = block(i, buffer);
    for (std::size_t j = 0; j < values.size(); ++j) {
      // Written always and counted when it passes: no branch to predict in a half-full block.
      out[count] = {values[j], static_cast<std::int32_t>(i * kChunk + j)};
      count += values[j] >= threshold;
    }
  }
  return count;
}

template <typename Visit>
void LogitBlocks::for_each_weighed_block(Visit visit) const {
  Buffer buffer;
  std::array<double, kChunk> weights;
  for (std::size_t i = 0; i < block_max_.size(); ++i) {
    const auto values = block(i, buffer);
    chunk_weights(values.size(), [&](std::size_t j) { return values[j]; }, max_, 1.0, weights);
    visit(values, weights);
  }
}

double LogitBlocks::mass() const {
  double sum = 0.0;
  for_each_weighed_block([&](auto, const auto& weights) { sum += chunk_sum(weights); });
  return sum;
}

LogitBlocks::Nucleus LogitBlocks::nucleus(double top_p) const {
  // The tokens deeper than -log((1 - top_p) / vocab_size) below the maximum together have less than
  // 1 - top_p of the mass: the nucleus lies above them, and they may share the last bucket.
  constexpr std::size_t kBuckets = 1024;
  constexpr double kRoundingMargin = 1e-6;
  const double depth =
      kRoundingMargin - std::log((1 - top_p) / static_cast<double>(logits_.size()));
  const double buckets_per_unit = kBuckets / depth;
  std::array<double, kBuckets + 1> mass_at_depth{};
  double total = 0.0;
  for_each_weighed_block([&](auto values, const auto& weights) {
    total += chunk_sum(weights);
    for (std::size_t j = 0; j < values.size(); ++j) {
      const double bucket = (static_cast<double>(max_) - values[j]) * buckets_per_unit;
      mass_at_depth[static_cast<std::size_t>(bucket < kBuckets ? bucket : kBuckets)] += weights[j];
    }
  });
  const double target = top_p * total;
  double above = 0.0;
  std::size_t n_buckets = 0;
  while (n_buckets < kBuckets && above <= target * (1 + kRoundingMargin))
    above += mass_at_depth[n_buckets++];
  return {target, max_ - static_cast<double>(n_buckets) / buckets_per_unit - kRoundingMargin};
}

}  // namespace quarrel
