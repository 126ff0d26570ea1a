#include "scheduler.h"

#include <pthread.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>

// Saves the callee-saved registers on the current stack, stores its pointer, goes on another stack.
extern "C" void msl_switch(void** save, void* to);
asm(R"(.text
.globl msl_switch
.type msl_switch,@function
msl_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp,(%rdi)
  movq %rsi,%rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size msl_switch,.-msl_switch
)");

namespace msl {
namespace {

// Raised by a worker's own timer. Real-time signals are nobody else's.
int timeout_signal() { return SIGRTMIN + 6; }

thread_local Worker* current_worker __attribute__((tls_model("initial-exec"))) = nullptr;

constexpr int kFaults[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL};
struct sigaction previous_actions[NSIG];

// A fault or timeout of a lane ends its launch; any other signal goes to whoever had it before.
void on_signal(int signal, siginfo_t* info, void* context) {
  if (current_worker) current_worker->on_signal(signal, info);
  if (signal == timeout_signal()) return;
  const struct sigaction& previous = previous_actions[signal];
  if (previous.sa_flags & SA_SIGINFO) {
    previous.sa_sigaction(signal, info, context);
  } else if (previous.sa_handler == SIG_DFL || previous.sa_handler == SIG_IGN) {
    sigaction(signal, &previous, nullptr);  // the instruction faults again and ends the process
  } else {
    previous.sa_handler(signal);
  }
}

// Looked at before each launch, because test tools (faulthandler) install handlers of their own.
void install_handlers() {
  struct sigaction action{};
  action.sa_sigaction = on_signal;
  action.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER;
  for (int signal : kFaults) {
    struct sigaction now{};
    sigaction(signal, nullptr, &now);
    if (now.sa_sigaction == on_signal) continue;
    previous_actions[signal] = now;
    sigaction(signal, &action, nullptr);
  }
  sigaction(timeout_signal(), &action, nullptr);
}

void set_timer(timer_t timer, double seconds) {
  itimerspec spec{};
  spec.it_value.tv_sec = static_cast<time_t>(seconds);
  spec.it_value.tv_nsec =
      static_cast<long>((seconds - static_cast<double>(spec.it_value.tv_sec)) * 1e9);
  // Again and again: the first one may find the worker between two lanes.
  if (seconds > 0) spec.it_interval.tv_nsec = 20'000'000;
  timer_settime(timer, 0, &spec, nullptr);
}

// Return addresses up to the entry point. One address would not do: a helper that is not inlined
// is the same place for lanes of both branches. Kernels are compiled with frame pointers.
uint64_t call_chain(void** frame) {
  uint64_t hash = 0;
  for (; frame; frame = static_cast<void**>(frame[0])) {
    hash = (hash ^ reinterpret_cast<uint64_t>(frame[1])) * 0x9E3779B97F4A7C15ull;
  }
  return hash;
}

void lane_start() { current_worker->lane_main(); }

uint32_t pick(uint32_t mask, bool reversed) {
  return reversed ? 31 - __builtin_clz(mask) : __builtin_ctz(mask);
}

}  // namespace

Worker& Worker::current() {
  if (!current_worker)
    current_worker = new Worker;  // for the thread's life: lanes may be abandoned
  return *current_worker;
}

Worker::Worker() : lanes_(kMaxThreads), simdgroups_(kMaxThreads / kSimdWidth) {
  stacks_ = static_cast<char*>(mmap(nullptr, kMaxThreads * kLaneStackBytes, PROT_READ | PROT_WRITE,
                                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
  stack_t signal_stack{};
  signal_stack.ss_size = 256 << 10;
  signal_stack.ss_sp = malloc(signal_stack.ss_size);
  sigaltstack(&signal_stack, nullptr);
  sigevent event{};
  event.sigev_notify = SIGEV_THREAD_ID;
  event.sigev_signo = timeout_signal();
  event._sigev_un._tid = gettid();
  timer_create(CLOCK_MONOTONIC, &event, &timer_);
  // A signal may come at any instruction of a lane: nothing there may allocate.
  message_.reserve(512);
  variables_.reserve(256);
}

void Worker::begin(const msl_launch& launch) {
  install_handlers();
  launch_ = &launch;
  message_.clear();
  variables_.clear();
  expired_ = false;
  argument_bytes_ = 0;
  for (uint32_t i = 0; i < launch.n_threadgroup_arguments; ++i) {
    argument_bytes_ += (launch.threadgroup_bytes[i] + 127) / 128 * 128;
  }
  threadgroup_memory_.resize(argument_bytes_ + 128);
  auto base = reinterpret_cast<uintptr_t>(threadgroup_memory_.data());
  char* next = threadgroup_memory_.data() + (128 - base % 128) % 128;
  for (uint32_t i = 0; i < launch.n_threadgroup_arguments; ++i) {
    threadgroup_arguments_[i] = next;
    next += (launch.threadgroup_bytes[i] + 127) / 128 * 128;
  }
  set_timer(timer_, launch.timeout_seconds);
}

void Worker::end() { set_timer(timer_, 0); }

int Worker::run(uint32_t x, uint32_t y, uint32_t z) {
  int status = sigsetjmp(escape_, 1);
  if (status != 0) {  // a lane gave up, wherever it was
    in_lane_ = false;
    if (status == MSL_OUT_OF_BOUNDS) message_ += describe_address(fault_address_);
    return status;
  }
  if (expired_) escape(MSL_TIMEOUT, "the kernel ran past its time limit");
  lay_out(x, y, z);
  run_simdgroups();
  return MSL_OK;
}

void Worker::lay_out(uint32_t x, uint32_t y, uint32_t z) {
  const uint32_t position[3] = {x, y, z};
  group_.buffers = launch_->buffers;
  group_.threadgroup_memory = threadgroup_arguments_;
  for (int d = 0; d < 3; ++d) {
    const uint32_t n = launch_->threads[d];
    group_.position[d] = position[d];
    group_.dispatch_threads[d] = n;
    group_.grid_threads[d] = launch_->grid_threads[d];
    group_.grid_groups[d] = (launch_->grid_threads[d] + n - 1) / n;
    group_.threads[d] = std::min(n, launch_->grid_threads[d] - position[d] * n);
  }
  n_threads_ = group_.threads[0] * group_.threads[1] * group_.threads[2];
  group_.n_simdgroups = (n_threads_ + kSimdWidth - 1) / kSimdWidth;
  // Threadgroup memory starts as garbage on a GPU; all ones is a NaN in every float type.
  if (argument_bytes_) memset(threadgroup_arguments_[0], 0xFF, argument_bytes_);
  n_poisoned_ = 0;
  for (uint32_t i = 0; i < n_threads_; ++i) {
    Lane& lane = lanes_[i];
    lane.simdgroup = &simdgroups_[i / kSimdWidth];
    lane.context = {&group_,
                    {i % group_.threads[0], i / group_.threads[0] % group_.threads[1],
                     i / (group_.threads[0] * group_.threads[1])},
                    i % kSimdWidth,
                    i / kSimdWidth,
                    i};
    // Stacks begin at different cache lines, else all lanes' locals share a few sets of the cache.
    char* top = stacks_ + (i + 1) * kLaneStackBytes - 64 - (i * 37 % 64) * 64;
    auto** stack = reinterpret_cast<void**>(top);
    stack[-2] = reinterpret_cast<void*>(lane_start);
    stack[-3] = nullptr;  // the frame pointer: ends the call chain
    lane.stack_pointer = stack - 8;
  }
  for (uint32_t k = 0; k < group_.n_simdgroups; ++k) {
    Simdgroup& simdgroup = simdgroups_[k];
    const uint32_t n = std::min(kSimdWidth, n_threads_ - k * kSimdWidth);
    simdgroup.lanes = &lanes_[k * kSimdWidth];
    simdgroup.running = n == kSimdWidth ? ~0u : (1u << n) - 1;
    simdgroup.at_simd = simdgroup.at_barrier = simdgroup.done = 0;
    simdgroup.reversed = launch_->reversed;
  }
  begin_threadgroup(position);
}

void Worker::run_simdgroups() {
  do {
    for (uint32_t i = 0; i < group_.n_simdgroups; ++i) {
      Simdgroup& simdgroup = simdgroups_[launch_->reversed ? group_.n_simdgroups - 1 - i : i];
      if (simdgroup.running) resume_simdgroup(&simdgroup);
    }
  } while (release_barrier());
}

void Worker::resume_simdgroup(Simdgroup* simdgroup) {
  lane_ = &simdgroup->lanes[pick(simdgroup->running, simdgroup->reversed)];
  in_lane_ = true;
  msl_switch(&simdgroup->scheduler_stack_pointer, lane_->stack_pointer);
  in_lane_ = false;
}

// All lanes wait at a barrier or have ended. Returns false when all have ended.
bool Worker::release_barrier() {
  bool waiting = false, ended = false, same = true;
  uint64_t site = 0;
  for (uint32_t k = 0; k < group_.n_simdgroups; ++k) {
    Simdgroup& simdgroup = simdgroups_[k];
    ended |= simdgroup.done != 0;
    for (uint32_t mask = simdgroup.at_barrier; mask; mask &= mask - 1) {
      const uint64_t here = simdgroup.lanes[__builtin_ctz(mask)].site;
      same &= !waiting || here == site;
      site = here;
      waiting = true;
    }
  }
  if (!waiting) return false;
  if (ended) escape(MSL_DIVERGENT, "threadgroup_barrier was not reached by every thread");
  if (!same) escape(MSL_DIVERGENT, "threads wait at different threadgroup_barriers");
  for (uint32_t k = 0; k < group_.n_simdgroups; ++k) {
    simdgroups_[k].running = simdgroups_[k].at_barrier;
    simdgroups_[k].at_barrier = 0;
  }
  return true;
}

// Called on the stack of a lane that just stopped running; returns when it may run again.
void Worker::stop_lane(Lane* lane) {
  Simdgroup* simdgroup = lane->simdgroup;
  if (!simdgroup->running && simdgroup->at_simd) resolve(simdgroup);
  if (!simdgroup->running) {
    msl_switch(&lane->stack_pointer, simdgroup->scheduler_stack_pointer);
    return;
  }
  Lane* next = &simdgroup->lanes[pick(simdgroup->running, simdgroup->reversed)];
  if (next == lane) return;
  lane_ = next;
  msl_switch(&lane->stack_pointer, next->stack_pointer);
}

void Worker::resolve(Simdgroup* simdgroup) {
  const uint32_t waiting = simdgroup->at_simd;
  const uint64_t site = simdgroup->lanes[__builtin_ctz(waiting)].site;
  bool together = !simdgroup->at_barrier && !simdgroup->done;
  for (uint32_t mask = waiting; mask; mask &= mask - 1) {
    together &= simdgroup->lanes[__builtin_ctz(mask)].site == site;
  }
  if (!together) {
    escape(MSL_DIVERGENT,
           "a simdgroup function was reached by only part of its simdgroup (divergent flow)");
  }
  simdgroup->resolver(simdgroup->slots, waiting);
  simdgroup->at_simd = 0;
  simdgroup->running = waiting;
}

void Worker::lane_main() {
  Lane* lane = lane_;
  launch_->entry(&lane->context);
  const uint32_t bit = 1u << lane->context.lane;
  lane->simdgroup->running &= ~bit;
  lane->simdgroup->done |= bit;
  stop_lane(lane);
  __builtin_trap();  // a lane that has ended is never picked
}

void Worker::escape(int status, const char* message) {
  in_lane_ = false;
  message_ = message;
  siglongjmp(escape_, status);
}

void Worker::on_signal(int signal, siginfo_t* info) {
  if (signal == timeout_signal()) expired_ = true;
  if (!in_lane_) return;
  if (signal == timeout_signal()) escape(MSL_TIMEOUT, "the kernel ran past its time limit");
  if (signal == SIGFPE) escape(MSL_TRAP, "integer division by zero");
  if (signal == SIGILL) escape(MSL_TRAP, "the shim trapped: unsupported use of a function");
  fault_address_ = info->si_addr;
  escape(MSL_OUT_OF_BOUNDS, "access outside of a buffer: ");
}

void Worker::announce(void* address, size_t n_bytes) {
  auto known = std::find_if(variables_.begin(), variables_.end(),
                            [&](const auto& v) { return v.address == address; });
  if (known == variables_.end()) {
    size_t total = argument_bytes_ + n_bytes;
    for (const auto& variable : variables_) total += variable.n_bytes;
    if (total > kMaxThreadgroupBytes) {
      escape(MSL_INVALID, "the kernel uses more than 32768 bytes of threadgroup memory");
    }
    variables_.insert(variables_.begin() + static_cast<long>(n_poisoned_), {address, n_bytes});
    known = variables_.begin() + static_cast<long>(n_poisoned_);
  }
  const auto index = static_cast<size_t>(known - variables_.begin());
  if (index < n_poisoned_) return;  // another lane of this threadgroup was first
  memset(address, 0xFF, n_bytes);
  std::swap(variables_[index], variables_[n_poisoned_++]);
}

}  // namespace msl

extern "C" {

unsigned __msl_lane_index() { return msl::current_worker->lane()->context.lane; }

void* __msl_slot() {
  msl::Lane* lane = msl::current_worker->lane();
  return lane->simdgroup->slots[lane->context.lane];
}

__attribute__((noinline)) void __msl_simdgroup_meet(__msl_resolver resolver) {
  msl::Lane* lane = msl::current_worker->lane();
  const uint32_t bit = 1u << lane->context.lane;
  lane->site = msl::call_chain(static_cast<void**>(__builtin_frame_address(0)));
  lane->simdgroup->running &= ~bit;
  lane->simdgroup->at_simd |= bit;
  lane->simdgroup->resolver = resolver;
  msl::current_worker->stop_lane(lane);
}

__attribute__((noinline)) void __msl_threadgroup_meet() {
  msl::Lane* lane = msl::current_worker->lane();
  const uint32_t bit = 1u << lane->context.lane;
  lane->site = msl::call_chain(static_cast<void**>(__builtin_frame_address(0)));
  lane->simdgroup->running &= ~bit;
  lane->simdgroup->at_barrier |= bit;
  msl::current_worker->stop_lane(lane);
}

void __msl_threadgroup_variable(void* address, unsigned long n_bytes) {
  msl::current_worker->announce(address, n_bytes);
}

}  // extern "C"
