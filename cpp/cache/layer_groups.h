// Which blocks a layer group needs: the arithmetic of windows and sinks.
//
// Hybrid models have one group per attention span (Gemma 3: local layers of a window, global ones
// without). Sinks: Xiao et al., "Efficient Streaming Language Models with Attention Sinks", 2023.
#pragma once

#include <algorithm>
#include <cstddef>

#include "cache/kv_cache.h"

namespace quarrel {

inline std::size_t blocks_for(std::size_t n_tokens, std::size_t block_size) {
  return n_tokens / block_size + (n_tokens % block_size != 0);
}

inline std::size_t sink_blocks(const GroupSpec& spec, std::size_t block_size) {
  return blocks_for(spec.sinks, block_size);
}

// The first position, sinks apart, that a query at position n_tokens sees.
inline std::size_t window_start(const GroupSpec& spec, std::size_t n_tokens) {
  return spec.window != 0 && n_tokens + 1 > spec.window ? n_tokens + 1 - spec.window : 0;
}

// The blocks that must be there to compute position n_tokens: [0, sinks_end) and
// [window_begin, end); those between are fully outside.
struct NeededBlocks {
  std::size_t sinks_end;
  std::size_t window_begin;  // >= sinks_end
  std::size_t end;

  bool contains(std::size_t block) const {
    return block < sinks_end || (block >= window_begin && block < end);
  }
};

inline NeededBlocks needed_blocks(const GroupSpec& spec, std::size_t block_size,
                                  std::size_t n_tokens) {
  const std::size_t end = blocks_for(n_tokens, block_size);
  const std::size_t sinks_end = std::min(sink_blocks(spec, block_size), end);
  // A window of one token can begin in the block after the last one held.
  const std::size_t first = std::min(window_start(spec, n_tokens) / block_size, end);
  return {sinks_end, std::max(first, sinks_end), end};
}

// Calls visit(block) for each needed block in rising order until it returns false.
template <class Visit>
bool all_needed(const NeededBlocks& needed, const Visit& visit) {
  for (std::size_t b = 0; b < needed.sinks_end; ++b)
    if (!visit(b)) return false;
  for (std::size_t b = needed.window_begin; b < needed.end; ++b)
    if (!visit(b)) return false;
  return true;
}

}  // namespace quarrel
