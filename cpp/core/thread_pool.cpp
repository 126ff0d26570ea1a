#include "core/thread_pool.h"

#include <string>

#include "core/error.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace quarrel {
namespace {

// The operations of a step follow each other within microseconds, so a waiter spins before it
// sleeps. The bound keeps an idle pool, or one with more threads than cores, from burning time.
constexpr int kSpins = 4000;

void relax() {
#if defined(__x86_64__)
  _mm_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

template <class T>
void wait_while_equal(const std::atomic<T>& value, T old) {
  for (int i = 0; i < kSpins; ++i) {
    if (value.load(std::memory_order_acquire) != old) return;
    relax();
  }
  value.wait(old, std::memory_order_acquire);
}

}  // namespace

ThreadPool::ThreadPool(int n_threads) {
  if (n_threads < 1) {
    throw InvalidArgument("[thread_pool] expected n_threads >= 1, got " +
                          std::to_string(n_threads));
  }
  ranges_ = std::make_unique<Range[]>(static_cast<std::size_t>(n_threads));
  workers_.reserve(static_cast<std::size_t>(n_threads - 1));
  for (int i = 1; i < n_threads; ++i) workers_.emplace_back([this, i] { work(i); });
}

ThreadPool::~ThreadPool() {
  stop_.store(true, std::memory_order_relaxed);
  state_.fetch_add(kOneLoop, std::memory_order_release);
  state_.notify_all();
  for (auto& worker : workers_) worker.join();
}

void ThreadPool::note(int thread, std::int64_t start_ns, std::size_t n_items) {
  if (n_items == 0) return;
  trace_->record(static_cast<std::size_t>(thread),
                 {start_ns, SpanLog::now_ns(), loop_name_, static_cast<std::uint32_t>(n_items)});
}

void ThreadPool::take_part(int thread) {
  if (!trace_) {
    claim_items(thread);
    return;
  }
  const std::int64_t start = SpanLog::now_ns();
  note(thread, start, claim_items(thread));
}

// Returns how many it ran.
std::size_t ThreadPool::claim_items(int thread) {
  std::size_t n_claimed = 0;
  const auto n = static_cast<std::size_t>(n_threads());
  for (std::size_t i = 0; i < n; ++i) {
    Range& range = ranges_[(static_cast<std::size_t>(thread) + i) % n];
    for (;;) {
      const std::size_t item = range.next.fetch_add(1, std::memory_order_relaxed);
      if (item >= range.end) break;
      invoke_(body_, item, thread);
      ++n_claimed;
    }
  }
  return n_claimed;
}

void ThreadPool::run_alone(std::size_t n_items, const void* body, Invoke invoke) {
  const std::int64_t start = trace_ ? SpanLog::now_ns() : 0;
  for (std::size_t i = 0; i < n_items; ++i) invoke(body, i, 0);
  if (trace_) note(0, start, n_items);
}

void ThreadPool::run(std::size_t n_items, const void* body, Invoke invoke) {
  if (workers_.empty() || n_items < 2) {
    run_alone(n_items, body, invoke);
    return;
  }
  body_ = body;
  invoke_ = invoke;
  const auto n = static_cast<std::size_t>(n_threads());
  for (std::size_t i = 0; i < n; ++i) {
    ranges_[i].next.store(n_items * i / n, std::memory_order_relaxed);
    ranges_[i].end = n_items * (i + 1) / n;
  }
  const std::uint32_t before = state_.load(std::memory_order_relaxed);
  state_.store((loop_of(before) + 1) * kOneLoop, std::memory_order_release);
  state_.notify_all();
  take_part(0);
  std::uint32_t now = state_.fetch_or(kClosed, std::memory_order_acq_rel) | kClosed;
  while ((now & kJoined) != 0) {
    wait_while_equal(state_, now);
    now = state_.load(std::memory_order_acquire);
  }
}

void ThreadPool::work(int thread) {
  std::uint32_t last = 0;  // the first loop is number 1
  for (;;) {
    std::uint32_t now = state_.load(std::memory_order_acquire);
    if (stop_.load(std::memory_order_relaxed)) return;
    if ((now & kClosed) != 0 || loop_of(now) == last) {
      wait_while_equal(state_, now);
      continue;
    }
    if (!state_.compare_exchange_weak(now, now + 1, std::memory_order_acq_rel)) continue;
    last = loop_of(now);
    take_part(thread);
    if (((state_.fetch_sub(1, std::memory_order_acq_rel) - 1) & kJoined) == 0) state_.notify_all();
  }
}

}  // namespace quarrel
