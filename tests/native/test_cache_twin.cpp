// Every strategy beside the naive twin, on random moves.
#include <doctest/doctest.h>

#include "cache_twin.h"

namespace quarrel::testing {

TEST_CASE("a cache gives every sequence its own text back, whatever the moves") {
#if defined(__SANITIZE_THREAD__)
  constexpr std::uint64_t kSeeds = 3;  // one thread alone: no races to find, and very slow
#else
  constexpr std::uint64_t kSeeds = 12;
#endif
  for (std::size_t index = 0; index < kDriven; ++index) {
    std::size_t n_hit_tokens = 0;
    std::size_t n_evicted = 0;
    std::size_t n_restored = 0;
    std::size_t n_loaded_blocks = 0;
    Driven last = driven(index);
    for (std::uint64_t seed = 0; seed < kSeeds; ++seed) {
      Driven d = driven(index);
      CAPTURE(d.name);
      CAPTURE(seed);
      const auto bytes = random_bytes(seed, 20000);
      Choices choices(bytes);
      CacheTwin twin(*d.cache, d.n_blocks);
      twin.allow_restarts([index] { return std::move(driven(index).cache); });
      while (!choices.done()) twin.move(choices);
      twin.release_all();
      n_hit_tokens += twin.n_hit_tokens();
      n_evicted += twin.n_evicted();
      n_restored += twin.n_restored();
      n_loaded_blocks += twin.n_loaded_blocks();
    }
    // The campaign means something only if caches are hit and run full.
    CAPTURE(last.name);
    const bool warm = last.name.find("cold") == std::string::npos;
    CHECK((n_hit_tokens > 0) == warm);
    CHECK((n_evicted > 0) == warm);
    CHECK(n_restored > 0);
    CHECK((n_loaded_blocks > 0) == warm);
  }
}

}  // namespace quarrel::testing
