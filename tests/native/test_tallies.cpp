#include <doctest/doctest.h>

#include <cstdint>
#include <limits>
#include <thread>
#include <vector>

#include "core/error.h"
#include "core/tallies.h"

namespace quarrel {
namespace {

using Counts = std::vector<std::uint64_t>;

TEST_CASE("a value falls into the first bucket whose bound is not below it") {
  Histogram histogram({1.0, 2.0, 4.0});
  for (const double value : {-3.0, 1.0, 1.5, 2.0, 4.0, 4.5, 100.0}) histogram.observe(value);
  CHECK(histogram.counts() == Counts{2, 2, 1, 2});
  CHECK(histogram.sum() == 110.0);
}

TEST_CASE("a histogram without bounds has one bucket") {
  Histogram histogram({});
  histogram.observe(std::numeric_limits<double>::max());
  CHECK(histogram.counts() == Counts{1});
}

TEST_CASE("bounds that do not ascend are refused") {
  CHECK_THROWS_AS(Histogram({1.0, 1.0}), InvalidArgument);
  CHECK_THROWS_AS(Histogram({2.0, 1.0}), InvalidArgument);
}

TEST_CASE("nothing is lost when several threads count, and reading meanwhile is safe") {
  Counter counter;
  Histogram histogram({0.5});
  const auto count = [&] {
    for (int i = 0; i < 10'000; ++i) {
      counter.add(2);
      histogram.observe(i % 2);
    }
  };
  std::thread one(count);
  std::thread two(count);
  while (counter.value() < 20'000) CHECK(histogram.sum() >= 0.0);
  one.join();
  two.join();
  CHECK(counter.value() == 40'000);
  CHECK(histogram.counts() == Counts{10'000, 10'000});
  CHECK(histogram.sum() == 10'000.0);
}

}  // namespace
}  // namespace quarrel
