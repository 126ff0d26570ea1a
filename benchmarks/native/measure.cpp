#include "measure.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <new>
#include <numeric>
#include <thread>
#include <vector>

namespace {
std::atomic<std::size_t> n_allocations{0};
}

void* operator new(std::size_t n) {
  n_allocations.fetch_add(1, std::memory_order_relaxed);
  if (void* memory = std::malloc(n == 0 ? 1 : n)) return memory;
  throw std::bad_alloc();
}
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }

extern "C" __attribute__((noinline, visibility("default"))) void quarrel_bench_measured(
    const std::function<void()>& body) {
  body();
}

namespace quarrel::bench {
namespace {

using Clock = std::chrono::steady_clock;

constexpr std::size_t kFewest = 3;
constexpr std::size_t kMost = 2000;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

double median(std::vector<double> values) {
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
  std::ranges::nth_element(values, middle);
  return *middle;
}

}  // namespace

Timing measure(const Options& options, const std::function<void()>& prepare,
               const std::function<void()>& body) {
  prepare();
  body();
  std::vector<double> times;
  std::vector<double> allocations;
  const std::size_t most = options.repeat != 0 ? options.repeat : kMost;
  times.reserve(most);
  allocations.reserve(most);
  const auto begin = Clock::now();
  const double limit = static_cast<double>(options.milliseconds) / 1000;
  while (times.size() < most) {
    if (options.repeat == 0 && times.size() >= kFewest && seconds_since(begin) > limit) break;
    prepare();
    const std::size_t before = n_allocations;
    const auto start = Clock::now();
    quarrel_bench_measured(body);
    times.push_back(seconds_since(start));
    allocations.push_back(static_cast<double>(n_allocations - before));
  }
  const double middle = median(times);
  std::vector<double> distances;
  for (const double time : times) distances.push_back(std::abs(time - middle));
  return {middle, median(distances) / middle, median(allocations), times.size()};
}

double memory_bandwidth(std::size_t n_threads, std::size_t mebibytes) {
  const std::size_t n = (mebibytes << 20) / sizeof(std::uint64_t) / n_threads;
  const std::vector<std::uint64_t> data(n * n_threads, 1);
  std::vector<std::uint64_t> sums(n_threads);
  const auto pass = [&](std::size_t thread) {
    const auto first = data.begin() + static_cast<std::ptrdiff_t>(thread * n);
    sums[thread] += std::accumulate(first, first + static_cast<std::ptrdiff_t>(n), std::uint64_t{});
  };
  double best = 0;
  for (int round = 0; round < 5; ++round) {
    const auto start = Clock::now();
    std::vector<std::thread> threads;
    for (std::size_t i = 1; i < n_threads; ++i) threads.emplace_back(pass, i);
    pass(0);
    for (std::thread& thread : threads) thread.join();
    best = std::max(best, static_cast<double>(n * n_threads * 8) / seconds_since(start));
  }
  // Whoever adds up what nobody reads may skip it.
  return std::accumulate(sums.begin(), sums.end(), std::uint64_t{}) == 5 * n * n_threads ? best : 0;
}

}  // namespace quarrel::bench
