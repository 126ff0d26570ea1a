// Bounded memory per sequence: the last `window` tokens and the first `sinks`.
#pragma once

#include "cache/paged_cache.h"

namespace quarrel {

// Whole blocks outside the window go back to their pool as tokens are committed, so a sequence runs
// round a ring of blocks however long it gets. Also for models without a window of their own: then
// group_spec() tells attention to mask accordingly. Layers whose own window is no wider than
// `window` keep their own mask, without sinks.
class SlidingWindowCache final : public PagedCache {
 public:
  // config.groups: the model's own spans. window: at least one token.
  SlidingWindowCache(PagedConfig config, std::size_t window, std::size_t sinks);

  std::string_view strategy() const override { return "sliding_window"; }
};

}  // namespace quarrel
