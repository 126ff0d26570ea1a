#include <doctest/doctest.h>

#include <atomic>
#include <cstddef>
#include <numeric>
#include <vector>

#include "core/error.h"
#include "core/thread_pool.h"

using quarrel::InvalidArgument;
using quarrel::ThreadPool;

TEST_CASE("a pool of no threads is refused") {
  CHECK_THROWS_WITH_AS(ThreadPool(0), "[thread_pool] expected n_threads >= 1, got 0",
                       InvalidArgument);
  CHECK_THROWS_AS(ThreadPool(-3), InvalidArgument);
}

TEST_CASE("every item runs exactly once, for any number of threads and items") {
  for (const int n_threads : {1, 2, 3, 8}) {
    ThreadPool pool(n_threads);
    CHECK(pool.n_threads() == n_threads);
    for (const std::size_t n_items : {0, 1, 2, 3, 7, 64, 1000}) {
      std::vector<int> runs(n_items);  // plain ints: each is one item's own, as outputs are
      pool.parallel_for(n_items, [&](std::size_t item, int) { ++runs[item]; });
      CHECK(runs == std::vector<int>(n_items, 1));
    }
  }
}

TEST_CASE("a thread's number is in range and held by one item at a time") {
  constexpr int kThreads = 4;
  ThreadPool pool(kThreads);
  std::vector<std::atomic<int>> inside(kThreads);
  std::atomic<int> faults{0};
  pool.parallel_for(2000, [&](std::size_t, int thread) {
    if (thread < 0 || thread >= kThreads) {
      ++faults;
      return;
    }
    auto& mine = inside[static_cast<std::size_t>(thread)];
    if (mine.fetch_add(1) != 0) ++faults;
    mine.fetch_sub(1);
  });
  CHECK(faults == 0);
}

TEST_CASE("a loop sees what the loop before it wrote") {
  ThreadPool pool(3);
  constexpr std::size_t kItems = 97;
  std::vector<std::size_t> from(kItems);
  std::vector<std::size_t> to(kItems);
  std::iota(from.begin(), from.end(), std::size_t{0});
  // Each loop reads its neighbour's cell of the loop before: a missing fence shows, and under
  // ThreadSanitizer it is reported.
  constexpr std::size_t kLoops = 2000;
  for (std::size_t loop = 0; loop < kLoops; ++loop) {
    pool.parallel_for(kItems,
                      [&](std::size_t item, int) { to[item] = from[(item + 1) % kItems] + 1; });
    from.swap(to);
  }
  for (std::size_t i = 0; i < kItems; ++i) CHECK(from[i] == (i + kLoops) % kItems + kLoops);
}

TEST_CASE("pools start and stop without work, and side by side") {
  for (int i = 0; i < 50; ++i) {
    const ThreadPool idle(3);
    ThreadPool busy(2);
    std::atomic<int> sum{0};
    busy.parallel_for(10, [&](std::size_t item, int) { sum += static_cast<int>(item); });
    CHECK(sum == 45);
  }
}
