#include "program/step_profile.h"

#include <algorithm>

namespace quarrel {

void StepProfile::enable(const std::vector<std::string>& names) {
  names_.clear();
  name_of_stage_.clear();
  for (const std::string& name : names) {
    const auto found = std::ranges::find(names_, name);
    name_of_stage_.push_back(static_cast<std::size_t>(found - names_.begin()));
    if (found == names_.end()) names_.push_back(name);
  }
  for (auto& totals : totals_) totals = std::make_unique<Total[]>(names_.size());
  enabled_ = true;
}

std::vector<StageTime> StepProfile::times() const {
  std::vector<StageTime> times;
  for (const StepPhase phase : {StepPhase::Prefill, StepPhase::Decode}) {
    const auto& totals = totals_[static_cast<std::size_t>(phase)];
    for (std::size_t i = 0; i < names_.size(); ++i) {
      const std::uint64_t n_runs = totals[i].n_runs.load(std::memory_order_relaxed);
      const auto nanoseconds = totals[i].nanoseconds.load(std::memory_order_relaxed);
      if (n_runs != 0)
        times.push_back({names_[i], phase, n_runs, 1e-9 * static_cast<double>(nanoseconds)});
    }
  }
  return times;
}

StepProfile::Span::Span(StepProfile& profile, StepPhase phase, std::size_t stage)
    : profile_(profile), phase_(phase), stage_(stage) {
  // A stage begins where the one before it ended: asking the clock once per stage halves the cost.
  if (profile_.enabled())
    start_ = stage == 0 ? std::chrono::steady_clock::now() : profile_.last_end_;
}

StepProfile::Span::~Span() {
  if (!profile_.enabled()) return;
  Total& total =
      profile_.totals_[static_cast<std::size_t>(phase_)][profile_.name_of_stage_[stage_]];
  profile_.last_end_ = std::chrono::steady_clock::now();
  const auto time = profile_.last_end_ - start_;
  total.n_runs.fetch_add(1, std::memory_order_relaxed);
  total.nanoseconds.fetch_add(std::chrono::duration_cast<std::chrono::nanoseconds>(time).count(),
                              std::memory_order_relaxed);
  if (profile_.trace_)
    profile_.trace_->record(0, {SpanLog::in_ns(start_), SpanLog::in_ns(profile_.last_end_),
                                profile_.traced_name_of_stage_[stage_], 0});
}

}  // namespace quarrel
