#include "sampling/token_history.h"

#include <algorithm>
#include <cassert>

namespace quarrel {

void TokenHistory::accept(std::int32_t token_id) {
  if (window_ == 0) return;
  add(token_id);
  if (window_ < 0) return;
  if (ring_.size() < static_cast<std::size_t>(window_)) {
    ring_.push_back(token_id);
    return;
  }
  remove(ring_[oldest_]);
  ring_[oldest_] = token_id;
  oldest_ = (oldest_ + 1) % ring_.size();
}

void TokenHistory::add(std::int32_t token_id) {
  const auto place = std::ranges::lower_bound(counts_, token_id, {}, &TokenCount::id);
  if (place != counts_.end() && place->id == token_id)
    ++place->count;
  else
    counts_.insert(place, {token_id, 1});
}

void TokenHistory::remove(std::int32_t token_id) {
  const auto place = std::ranges::lower_bound(counts_, token_id, {}, &TokenCount::id);
  assert(place != counts_.end() && place->id == token_id);
  if (--place->count == 0) counts_.erase(place);
}

}  // namespace quarrel
