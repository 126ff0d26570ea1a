// Any bytes are a history of a KV cache: the first chooses the cache, the rest its moves. A
// contradiction with the naive twin ends the process with an uncaught exception.
#include <cstddef>
#include <cstdint>

#include "cache_twin.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace quarrel::testing;
  Choices choices({data, size});
  Driven d = driven(choices.below(kDriven));
  CacheTwin twin(*d.cache, d.n_blocks);
  while (!choices.done()) twin.move(choices);
  twin.release_all();
  return 0;
}
