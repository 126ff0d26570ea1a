#include <doctest/doctest.h>

#include <cmath>
#include <cstdint>
#include <set>

#include "sampling/philox.h"

using quarrel::philox4x32_10;
using quarrel::PhiloxCounter;
using quarrel::PhiloxKey;
using quarrel::uniform_at;

TEST_CASE("philox4x32_10 gives the published known answers") {
  // Random123's known-answer vectors; the third uses the leading digits of pi.
  CHECK(philox4x32_10({0, 0, 0, 0}, {0, 0}) ==
        PhiloxCounter{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8});
  CHECK(philox4x32_10({0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff}, {0xffffffff, 0xffffffff}) ==
        PhiloxCounter{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd});
  CHECK(philox4x32_10({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0}) ==
        PhiloxCounter{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1});
}

TEST_CASE("uniform_at takes its 53 bits from the first two words") {
  // 0x6627e8d5 >> 5 and 0xe169c58d >> 6 of the all-zero vector above.
  const double expected = (0x3313f46 * 67108864.0 + 0x385a716) / 9007199254740992.0;
  CHECK(uniform_at(0, 0, 0) == expected);
}

TEST_CASE("uniform_at depends on every part of its key and counter and stays in [0, 1)") {
  std::set<double> seen;
  const std::uint64_t high = std::uint64_t{1} << 63;
  for (const std::uint64_t seed : {std::uint64_t{0}, std::uint64_t{1}, high, ~std::uint64_t{0}})
    for (const std::uint64_t position : {std::uint64_t{0}, std::uint64_t{7}, high})
      for (const std::uint32_t stream : {0U, 1U}) {
        const double value = uniform_at(seed, position, stream);
        CHECK(value >= 0.0);
        CHECK(value < 1.0);
        CHECK(value == uniform_at(seed, position, stream));
        seen.insert(value);
      }
  CHECK(seen.size() == 4 * 3 * 2);
}

TEST_CASE("uniform_at has the mean and variance of a uniform distribution") {
  constexpr int kDraws = 100000;
  double sum = 0, squares = 0;
  for (int position = 0; position < kDraws; ++position) {
    const double value = uniform_at(42, static_cast<std::uint64_t>(position), 0);
    sum += value;
    squares += value * value;
  }
  const double mean = sum / kDraws;
  // Five standard errors: sqrt(1 / 12 / n) for the mean, sqrt(1 / 180 / n) for the variance.
  CHECK(std::abs(mean - 0.5) < 5 * 0.000913);
  CHECK(std::abs(squares / kDraws - mean * mean - 1.0 / 12) < 5 * 0.000236);
}
