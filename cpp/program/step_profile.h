// Where the time of steps goes. A device keeps one per executable; off, it costs a branch per
// stage.
#pragma once

#include <array>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "core/span_log.h"

namespace quarrel {

// A step that computes more than one token of some sequence is a prefill step.
enum class StepPhase { Prefill, Decode };

struct StageTime {
  std::string name;  // e.g. "attention", "linear(attn_q,attn_k,attn_v)"
  StepPhase phase;
  std::uint64_t n_runs;
  double seconds;  // wall time, from the meeting of the threads before it to the one after it
};

class StepProfile {
 public:
  // names: one per stage of the executable; stages of one name are counted together.
  void enable(const std::vector<std::string>& names);
  void disable() { enabled_ = false; }
  bool enabled() const { return enabled_; }
  // While it is on, stages go to track 0 of this log too, under these names; nullptr: nowhere.
  void set_trace(std::shared_ptr<SpanLog> log, std::vector<std::uint32_t> name_of_stage) {
    trace_ = std::move(log);
    traced_name_of_stage_ = std::move(name_of_stage);
  }

  // Where a name has been seen, in the order of the stages. From any thread, also during a step,
  // except while enable() runs.
  std::vector<StageTime> times() const;

  // Times its own life; does nothing when the profile is off.
  class Span {
   public:
    Span(StepProfile& profile, StepPhase phase, std::size_t stage);
    ~Span();
    Span(const Span&) = delete;
    Span& operator=(const Span&) = delete;

   private:
    StepProfile& profile_;
    StepPhase phase_;
    std::size_t stage_;
    std::chrono::steady_clock::time_point start_{};
  };

 private:
  struct Total {
    std::atomic<std::uint64_t> n_runs{0};
    std::atomic<std::int64_t> nanoseconds{0};
  };
  bool enabled_ = false;
  std::chrono::steady_clock::time_point last_end_{};  // of the stage before
  std::vector<std::string> names_;                    // distinct
  std::vector<std::size_t> name_of_stage_;            // in names_
  std::shared_ptr<SpanLog> trace_;
  std::vector<std::uint32_t> traced_name_of_stage_;  // in the log's
  std::array<std::unique_ptr<Total[]>, 2> totals_;   // [phase][name]
};

}  // namespace quarrel
