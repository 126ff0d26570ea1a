// Spreads the threadgroups of a dispatch over persistent OS threads.
#include <atomic>
#include <condition_variable>
#include <cstdio>
#include <functional>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "scheduler.h"

namespace msl {
namespace {

// Threads that keep their lanes' stacks between dispatches: new ones would fault in every page.
class Pool {
 public:
  // Runs job on the caller and on n_helpers more threads; returns when all are done.
  void run(uint32_t n_helpers, const std::function<void()>& job) {
    {
      std::lock_guard lock(mutex_);
      while (n_threads_ < n_helpers) std::thread(&Pool::serve, this, n_threads_++).detach();
      job_ = &job;
      n_wanted_ = n_running_ = n_helpers;
      ++generation_;
    }
    wake_.notify_all();
    job();
    std::unique_lock lock(mutex_);
    finished_.wait(lock, [&] { return n_running_ == 0; });
    n_wanted_ = 0;  // a helper that wakes late must not look at a job that is gone
  }

 private:
  void serve(uint32_t id) {
    uint64_t seen = 0;
    for (;;) {
      const std::function<void()>* job = nullptr;
      {
        std::unique_lock lock(mutex_);
        wake_.wait(lock, [&] { return generation_ != seen; });
        seen = generation_;
        if (id >= n_wanted_) continue;
        job = job_;
      }
      (*job)();
      std::lock_guard lock(mutex_);
      if (--n_running_ == 0) finished_.notify_one();
    }
  }

  std::mutex mutex_;
  std::condition_variable wake_, finished_;
  const std::function<void()>* job_ = nullptr;
  uint64_t generation_ = 0;
  uint32_t n_threads_ = 0, n_wanted_ = 0, n_running_ = 0;
};

std::mutex dispatch_mutex;  // one dispatch at a time, whoever asks
Pool& pool() {
  static auto* threads = new Pool;  // never destroyed: its threads never end
  return *threads;
}

std::string check(const msl_launch& launch) {
  uint64_t n_threads = 1;
  for (int d = 0; d < 3; ++d) {
    if (launch.threads[d] == 0 || launch.grid_threads[d] == 0)
      return "an empty grid or threadgroup";
    n_threads *= launch.threads[d];
  }
  if (n_threads > kMaxThreads) return "a threadgroup has more than 1024 threads";
  size_t n_bytes = 0;
  for (uint32_t i = 0; i < launch.n_threadgroup_arguments; ++i)
    n_bytes += launch.threadgroup_bytes[i];
  if (n_bytes > kMaxThreadgroupBytes) return "more than 32768 bytes of threadgroup memory";
  return "";
}

// What the workers of one dispatch share.
struct Progress {
  std::atomic<uint64_t> next{0};
  std::atomic<bool> failed{false};
  std::mutex mutex;
  int status = MSL_OK;
  std::string message;
};

void work(const msl_launch& launch, uint64_t n_groups, Progress* progress) {
  uint64_t n[3];
  for (int d = 0; d < 3; ++d)
    n[d] = (launch.grid_threads[d] + launch.threads[d] - 1) / launch.threads[d];
  Worker& worker = Worker::current();
  worker.begin(launch);
  for (uint64_t i; !progress->failed && (i = progress->next++) < n_groups;) {
    const uint64_t g = launch.reversed ? n_groups - 1 - i : i;
    const int status =
        worker.run(static_cast<uint32_t>(g % n[0]), static_cast<uint32_t>(g / n[0] % n[1]),
                   static_cast<uint32_t>(g / (n[0] * n[1])));
    if (status == MSL_OK) continue;
    std::lock_guard lock(progress->mutex);
    if (progress->failed.exchange(true)) break;
    progress->status = status;
    progress->message = worker.message();
  }
  worker.end();
}

}  // namespace
}  // namespace msl

extern "C" int msl_dispatch(const msl_launch* launch, char* message, size_t message_bytes) {
  using namespace msl;
  std::lock_guard lock(dispatch_mutex);
  Progress progress;
  progress.message = check(*launch);
  if (!progress.message.empty()) {
    progress.status = MSL_INVALID;
  } else {
    uint64_t n_groups = 1;
    for (int d = 0; d < 3; ++d) {
      n_groups *= (launch->grid_threads[d] + launch->threads[d] - 1) / launch->threads[d];
    }
    begin_dispatch();
    const std::function<void()> job = [&] { work(*launch, n_groups, &progress); };
    if (launch->n_workers <= 1 || n_groups < 4) {
      job();
    } else {
      pool().run(launch->n_workers - 1, job);
    }
    if (progress.status == MSL_OK && take_hazard(&progress.message)) progress.status = MSL_HAZARD;
  }
  snprintf(message, message_bytes, "%s", progress.message.c_str());
  return progress.status;
}
