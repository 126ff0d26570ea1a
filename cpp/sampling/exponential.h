// exp and sums of exp for probabilities, in double and in a fixed order. The C library's exp is not
// used because its last bit differs between libraries and between CPUs of one library; this one is
// made of IEEE additions and multiplications only, so a probability has the same bits everywhere.
#pragma once

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>

namespace quarrel {

// 128-bit vectors, which GCC and Clang lower to the baseline of every target (SSE2, NEON).
using Float64x2 = double __attribute__((vector_size(16)));
using Uint64x2 = std::uint64_t __attribute__((vector_size(16)));

// exp(x) for x <= 0 or -inf, lane by lane: relative error below 1e-14 down to exp(-700), 0 from
// x = -709.1 on.
inline Float64x2 exp_nonpositive(Float64x2 x) {
  // Here the exponent comes out as -1023, whose bit pattern is the factor 0.
  const Float64x2 smallest = Float64x2{} - 709.1;
  constexpr double kLog2E = 1.4426950408889634074;
  // ln 2 in two parts; the first has so few bits that its product with an exponent is exact.
  constexpr double kLn2High = 0x1.62e42feep-1, kLn2Low = 0x1.a39ef35793c76p-33;
  // Adding 1.5 * 2^52 rounds to an integer and leaves that integer in the low bits of the sum.
  constexpr double kRounder = 0x1.8p52;
  // The coefficients 1/11! to 1/0! of the Taylor series.
  constexpr std::array kSeries = {1.0 / 39916800, 1.0 / 3628800, 1.0 / 362880, 1.0 / 40320,
                                  1.0 / 5040,     1.0 / 720,     1.0 / 120,    1.0 / 24,
                                  1.0 / 6,        0.5,           1.0,          1.0};
  const Float64x2 clamped = x > smallest ? x : smallest;
  const Float64x2 shifted = clamped * kLog2E + kRounder;
  const Float64x2 exponent = shifted - kRounder;
  const Float64x2 r = (clamped - exponent * kLn2High) - exponent * kLn2Low;  // |r| <= ln(2) / 2
  Float64x2 sum = Float64x2{} + kSeries[0];
  for (std::size_t i = 1; i < kSeries.size(); ++i) sum = sum * r + kSeries[i];
  const Uint64x2 biased = std::bit_cast<Uint64x2>(shifted) + 1023;
  return sum * std::bit_cast<Float64x2>(biased << 52);
}

inline double exp_nonpositive(double x) { return exp_nonpositive(Float64x2{x, x})[0]; }

inline constexpr std::size_t kChunk = 64;  // values that are scanned and summed together

// The unnormalised probability exp((logit - max) * inverse_temperature) of each of n <= kChunk
// logits; logit_at(i) returns the i-th. Entries from n on become 0.
template <typename LogitAt>
void chunk_weights(std::size_t n, LogitAt logit_at, double max, double inverse_temperature,
                   std::array<double, kChunk>& weights) {
  for (std::size_t i = 0; i < n; ++i)
    weights[i] = (static_cast<double>(logit_at(i)) - max) * inverse_temperature;
  for (std::size_t i = n; i < kChunk; ++i) weights[i] = -std::numeric_limits<double>::infinity();
  for (std::size_t i = 0; i < kChunk; i += 2) {
    Float64x2 pair;
    std::memcpy(&pair, &weights[i], sizeof(pair));
    pair = exp_nonpositive(pair);
    std::memcpy(&weights[i], &pair, sizeof(pair));
  }
}

// Sum of a chunk: eight interleaved partial sums, then those eight in ascending order.
inline double chunk_sum(const std::array<double, kChunk>& weights) {
  std::array<double, 8> lanes{};
  for (std::size_t i = 0; i < kChunk; i += lanes.size())
    for (std::size_t lane = 0; lane < lanes.size(); ++lane) lanes[lane] += weights[i + lane];
  double sum = 0.0;
  for (const double lane : lanes) sum += lane;
  return sum;
}

}  // namespace quarrel
