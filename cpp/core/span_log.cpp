#include "core/span_log.h"

#include <algorithm>

namespace quarrel {

SpanLog::SpanLog(std::shared_ptr<MemoryLedger> ledger, std::size_t n_tracks,
                 std::size_t spans_per_track)
    : ledger_(std::move(ledger)) {
  tracks_.reserve(n_tracks);
  for (std::size_t i = 0; i < n_tracks; ++i) tracks_.emplace_back(*ledger_, spans_per_track);
}

std::uint32_t SpanLog::intern(std::string_view name) {
  const auto found = std::ranges::find(names_, name);
  const auto index = static_cast<std::uint32_t>(found - names_.begin());
  if (found == names_.end()) names_.emplace_back(name);
  return index;
}

void SpanLog::clear() {
  for (auto& track : tracks_) track.clear();
}

}  // namespace quarrel
