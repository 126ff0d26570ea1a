// A test of the tests: the twin must catch every planted fault, and nothing when none is planted.
#define DOCTEST_CONFIG_IMPLEMENT_WITH_MAIN
#include <doctest/doctest.h>

#include "cache/planted_fault.h"
#include "cache_twin.h"
#include "core/error.h"

namespace quarrel::testing {
namespace {

// What the twin reports, or "".
std::string run(std::size_t index, std::uint64_t seed, bool check_invariants) {
  try {
    Driven d = driven(index);
    const auto bytes = random_bytes(seed, 6000);
    Choices choices(bytes);
    CacheTwin twin(*d.cache, d.n_blocks, check_invariants);
    twin.allow_restarts([index] { return std::move(driven(index).cache); });
    while (!choices.done()) twin.move(choices);
    twin.release_all();
  } catch (const Mismatch& e) {
    return e.what();
  } catch (const Error& e) {
    return e.what();
  }
  return "";
}

// Of the paged caches that reuse prefixes: how many (cache, seed) pairs are caught.
int n_caught(PlantedFault fault, bool check_invariants) {
  active_fault = fault;
  int n = 0;
  for (const std::size_t index : {2u, 6u, 8u})
    for (std::uint64_t seed = 0; seed < 4; ++seed) {
      const std::string report = run(index, seed, check_invariants);
      if (report.empty()) continue;
      if (n++ == 0) MESSAGE(report);
    }
  active_fault = PlantedFault::None;
  return n;
}

}  // namespace

TEST_CASE("no fault, no report") { CHECK(n_caught(PlantedFault::None, true) == 0); }

TEST_CASE("planted faults are caught by invariants and contents together") {
  CHECK(n_caught(PlantedFault::TrimOffByOne, true) == 12);
  CHECK(n_caught(PlantedFault::MissingReference, true) == 12);
  CHECK(n_caught(PlantedFault::StaleTableEntry, true) == 12);
  CHECK(n_caught(PlantedFault::HashWithoutParent, true) == 12);
}

TEST_CASE("planted faults are caught by contents alone") {
  CHECK(n_caught(PlantedFault::TrimOffByOne, false) > 0);
  CHECK(n_caught(PlantedFault::StaleTableEntry, false) > 0);
  CHECK(n_caught(PlantedFault::HashWithoutParent, false) > 0);
}

}  // namespace quarrel::testing
