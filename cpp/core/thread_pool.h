// A small pool for the data-parallel loops of one step.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <thread>
#include <utility>
#include <vector>

#include "core/span_log.h"

namespace quarrel {

// Loops run on the calling thread and n_threads - 1 workers. Every thread starts on a run of items
// of its own, so that it streams through memory, and takes from the others when that is done. A
// loop waits for no worker that has not yet begun on it, so that one which the system has put
// aside costs its share and no more. Who runs an item never changes a result: each computes its
// outputs alone and in a fixed order.
// Not reentrant: one caller at a time, no parallel_for inside an item. Items must not throw.
class ThreadPool {
 public:
  explicit ThreadPool(int n_threads);  // throws InvalidArgument if n_threads < 1
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int n_threads() const { return static_cast<int>(workers_.size()) + 1; }

  // What each thread does in a loop goes to its track, nullptr: nowhere. Between two loops.
  void set_trace(std::shared_ptr<SpanLog> log) { trace_ = std::move(log); }
  // What loops from now on are called there.
  void name_loops(std::uint32_t name) { loop_name_ = name; }

  // body(item, thread): for each item in [0, n_items); thread in [0, n_threads).
  template <class Body>
  void parallel_for(std::size_t n_items, const Body& body) {
    run(n_items, &body, [](const void* b, std::size_t item, int thread) {
      (*static_cast<const Body*>(b))(item, thread);
    });
  }

 private:
  using Invoke = void (*)(const void* body, std::size_t item, int thread);
  void run(std::size_t n_items, const void* body, Invoke invoke);
  void work(int thread);
  void take_part(int thread);
  std::size_t claim_items(int thread);
  void run_alone(std::size_t n_items, const void* body, Invoke invoke);
  void note(int thread, std::int64_t start_ns, std::size_t n_items);

  static constexpr std::uint32_t kClosed = 1u << 16;
  static constexpr std::uint32_t kJoined = kClosed - 1;    // mask
  static constexpr std::uint32_t kOneLoop = kClosed << 1;  // wraps around, which harms nothing
  static constexpr std::uint32_t loop_of(std::uint32_t state) { return state / kOneLoop; }

  // The items of one thread that nobody has claimed yet.
  struct alignas(64) Range {
    std::atomic<std::size_t> next{0};
    std::size_t end = 0;
  };

  std::vector<std::thread> workers_;

  // The current loop; written before state_ opens it, read by workers after they have joined it.
  const void* body_ = nullptr;
  Invoke invoke_ = nullptr;
  std::unique_ptr<Range[]> ranges_;  // [n_threads]
  std::shared_ptr<SpanLog> trace_;   // these two between loops only
  std::uint32_t loop_name_ = 0;

  // The number of the current loop, whether it is closed to workers, and how many are in it.
  alignas(64) std::atomic<std::uint32_t> state_{kClosed};
  std::atomic<bool> stop_{false};
};

}  // namespace quarrel
