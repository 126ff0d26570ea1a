// Any bytes are a history of a KV cache: the first chooses the cache, the rest its moves. A
// contradiction with the naive twin ends the process with an uncaught exception.
#include <cstddef>
#include <cstdint>

#include "cache_twin.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace quarrel::testing;
  Choices choices({data, size});
  const std::size_t index = choices.below(kDriven);
  Driven d = driven(index);
  CacheTwin twin(*d.cache, d.n_blocks);
  twin.allow_restarts([index] { return std::move(driven(index).cache); });
  while (!choices.done()) twin.move(choices);
  twin.release_all();
  return 0;
}
