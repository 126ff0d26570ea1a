#include "cache/kv_cache.h"

#include "core/error.h"

namespace quarrel {
namespace {

[[noreturn]] void refuse(const KVCache& cache) {
  throw InvalidArgument("[" + std::string(cache.strategy()) +
                        "] cannot save or restore what it holds; use contiguous, paged or "
                        "sliding_window.");
}

}  // namespace

CachedTexts KVCache::cached_texts() const { refuse(*this); }
std::vector<BlockFill> KVCache::adopt(const CachedTexts&) { refuse(*this); }
void KVCache::settle(bool) { refuse(*this); }
Restored KVCache::restore(const CachedTexts&, std::size_t) { refuse(*this); }

}  // namespace quarrel
