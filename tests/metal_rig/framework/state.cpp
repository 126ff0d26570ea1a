#include "state.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>

namespace rig {

State& state() {
  static auto* only = new State;  // never destroyed: the queue's thread outlives main()
  return *only;
}

void State::reset() {
  std::lock_guard lock(mutex_);
  reversed = access_checks = false;
  abort_on_violation = true;
  n_workers = 2;
  max_threads = 1024;
  timeout_seconds = 60;
  working_set = size_t{8} << 30;
  n_dispatches = 0;
  violations_.clear();
  std::fill(std::begin(until_failure_), std::end(until_failure_), -1);
}

bool State::fails(rig_fault fault) {
  std::lock_guard lock(mutex_);
  int& remaining = until_failure_[fault];
  if (remaining < 0) return false;
  return remaining-- == 0;
}

void State::inject(rig_fault fault, unsigned successes) {
  std::lock_guard lock(mutex_);
  until_failure_[fault] = static_cast<int>(successes);
}

void State::violation(const std::string& text) {
  fprintf(stderr, "Metal rule broken: %s\n", text.c_str());
  if (abort_on_violation) abort();
  std::lock_guard lock(mutex_);
  violations_.push_back(text);
}

const char* State::violation_text(unsigned i) {
  std::lock_guard lock(mutex_);
  return violations_.at(i).c_str();
}

unsigned State::violation_count() {
  std::lock_guard lock(mutex_);
  return static_cast<unsigned>(violations_.size());
}

}  // namespace rig

using rig::state;
#define RIG_EXPORT extern "C" __attribute__((visibility("default")))
RIG_EXPORT void rig_reset() { state().reset(); }
RIG_EXPORT void rig_set_reversed(int reversed) { state().reversed = reversed != 0; }
RIG_EXPORT void rig_set_workers(unsigned n) { state().n_workers = n; }
RIG_EXPORT void rig_set_timeout_seconds(double seconds) { state().timeout_seconds = seconds; }
RIG_EXPORT void rig_set_access_checks(int on) { state().access_checks = on != 0; }
RIG_EXPORT void rig_set_max_threads_per_threadgroup(unsigned n) { state().max_threads = n; }
RIG_EXPORT void rig_set_recommended_working_set(size_t n_bytes) { state().working_set = n_bytes; }
RIG_EXPORT void rig_set_abort_on_violation(int on) { state().abort_on_violation = on != 0; }
RIG_EXPORT unsigned rig_violation_count() { return state().violation_count(); }
RIG_EXPORT const char* rig_violation(unsigned i) { return state().violation_text(i); }
RIG_EXPORT size_t rig_live_buffers() { return state().n_buffers; }
RIG_EXPORT size_t rig_live_command_buffers() { return state().n_command_buffers; }
RIG_EXPORT size_t rig_dispatch_count() { return state().n_dispatches; }
RIG_EXPORT void rig_inject(rig_fault fault, unsigned successes) {
  state().inject(fault, successes);
}
