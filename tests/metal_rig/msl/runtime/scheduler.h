// One threadgroup on one OS thread: a fiber per lane, simdgroups of 32 lanes.
#pragma once

#include <csetjmp>
#include <csignal>
#include <cstdint>
#include <ctime>
#include <string>
#include <vector>

#include "msl_runtime.h"

namespace msl {

constexpr uint32_t kSimdWidth = 32;
constexpr uint32_t kMaxThreads = 1024;          // of a threadgroup
constexpr size_t kMaxThreadgroupBytes = 32768;  // of threadgroup memory
constexpr size_t kLaneStackBytes = 64 << 10;

struct Simdgroup;

struct alignas(64) Lane {
  void* stack_pointer;
  uint64_t site;  // where it waits: a hash of its call chain
  Simdgroup* simdgroup;
  __msl_lane context;
};

struct alignas(64) Simdgroup {
  Lane* lanes;
  // Every lane is in one of these masks.
  uint32_t running, at_simd, at_barrier, done;
  __msl_resolver resolver;  // of the lane that stopped last
  void* scheduler_stack_pointer;
  bool reversed;
  alignas(64) char slots[kSimdWidth][64];
};

struct ThreadgroupVariable {
  void* address;
  size_t n_bytes;
};

// The state of one OS thread that runs threadgroups. It lives as long as the thread.
class Worker {
 public:
  // The calling thread's worker, made at the first call.
  static Worker& current();

  // Gets ready for threadgroups of one launch; timeouts count from here.
  void begin(const msl_launch& launch);
  void end();
  // Runs one threadgroup. Returns MSL_OK, or a failure whose sentence is in message().
  int run(uint32_t x, uint32_t y, uint32_t z);
  const std::string& message() const { return message_; }

  // The rest is called from the lanes' own stacks.
  void stop_lane(Lane* lane);
  [[noreturn]] void lane_main();
  [[noreturn]] void escape(int status, const char* message);
  void on_signal(int signal, siginfo_t* info);
  void announce(void* address, size_t n_bytes);
  bool in_lane() const { return in_lane_; }
  Lane* lane() const { return lane_; }

 private:
  Worker();
  void lay_out(uint32_t x, uint32_t y, uint32_t z);
  void run_simdgroups();
  bool release_barrier();
  void resume_simdgroup(Simdgroup* simdgroup);
  void resolve(Simdgroup* simdgroup);

  const msl_launch* launch_ = nullptr;
  __msl_group group_{};
  uint32_t n_threads_ = 0;
  std::vector<Lane> lanes_;
  std::vector<Simdgroup> simdgroups_;
  char* stacks_ = nullptr;
  Lane* lane_ = nullptr;  // the one that runs
  std::vector<char> threadgroup_memory_;
  void* threadgroup_arguments_[31] = {};
  std::vector<ThreadgroupVariable> variables_;  // seen in this launch
  size_t n_poisoned_ = 0;                       // of them, in this threadgroup
  size_t argument_bytes_ = 0;
  volatile bool in_lane_ = false;
  volatile bool expired_ = false;
  void* volatile fault_address_ = nullptr;
  sigjmp_buf escape_;
  timer_t timer_{};
  std::string message_;
};

// Says whose guard page the address lies in (memory.cpp).
std::string describe_address(const void* address);
// The access checker (accesses.cpp) is told which threadgroup runs from here on, and asked
// afterwards what it found.
void begin_threadgroup(const uint32_t position[3]);
void begin_dispatch();
bool take_hazard(std::string* message);

}  // namespace msl
