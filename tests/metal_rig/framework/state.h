// The software Metal's settings, violations and injected faults.
#pragma once
#include <atomic>
#include <mutex>
#include <string>
#include <vector>

#include "rig_control.h"

namespace rig {

struct State {
  std::atomic<bool> reversed, access_checks, abort_on_violation;
  std::atomic<unsigned> n_workers, max_threads;
  std::atomic<double> timeout_seconds;
  std::atomic<size_t> working_set;
  std::atomic<size_t> n_buffers{0}, buffer_bytes{0}, n_command_buffers{0}, n_dispatches{0};

  State() { reset(); }
  void reset();
  void inject(rig_fault fault, unsigned successes);
  // True if this event is to fail.
  bool fails(rig_fault fault);
  // A rule of the API was broken: says so, and ends the process unless told otherwise.
  void violation(const std::string& text);
  const char* violation_text(unsigned i);
  unsigned violation_count();

 private:
  std::mutex mutex_;
  std::vector<std::string> violations_;
  int until_failure_[RIG_N_FAULTS];  // -1: never
};

State& state();

}  // namespace rig
