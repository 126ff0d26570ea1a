#include "cache/sliding_window_cache.h"

#include <utility>

#include "core/error.h"

namespace quarrel {
namespace {

PagedConfig narrowed(PagedConfig config, std::size_t window, std::size_t sinks) {
  if (window == 0)
    throw InvalidArgument("[sliding_window_cache] expected a window of at least one token, got 0");
  for (GroupSpec& spec : config.groups)
    if (spec.window == 0 || spec.window > window) spec = {window, sinks};
  return config;
}

}  // namespace

SlidingWindowCache::SlidingWindowCache(PagedConfig config, std::size_t window, std::size_t sinks)
    : PagedCache(narrowed(std::move(config), window, sinks)) {}

}  // namespace quarrel
