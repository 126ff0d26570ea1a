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
  for (auto& totals : totals_) totals.assign(names_.size(), {});
  enabled_ = true;
}

std::vector<StageTime> StepProfile::times() const {
  std::vector<StageTime> times;
  for (const StepPhase phase : {StepPhase::Prefill, StepPhase::Decode}) {
    const auto& totals = totals_[static_cast<std::size_t>(phase)];
    for (std::size_t i = 0; i < totals.size(); ++i)
      if (totals[i].n_runs != 0)
        times.push_back({names_[i], phase, totals[i].n_runs,
                         std::chrono::duration<double>(totals[i].time).count()});
  }
  return times;
}

StepProfile::Span::Span(StepProfile& profile, StepPhase phase, std::size_t stage)
    : profile_(profile), phase_(phase), stage_(stage) {
  if (profile_.enabled()) start_ = std::chrono::steady_clock::now();
}

StepProfile::Span::~Span() {
  if (!profile_.enabled()) return;
  Total& total =
      profile_.totals_[static_cast<std::size_t>(phase_)][profile_.name_of_stage_[stage_]];
  ++total.n_runs;
  total.time += std::chrono::steady_clock::now() - start_;
}

}  // namespace quarrel
