#include <doctest/doctest.h>

#include <limits>
#include <set>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "core/error.h"
#include "core/memory_ledger.h"

using quarrel::kMemoryKinds;
using quarrel::memory_kind_name;
using quarrel::MemoryKind;
using quarrel::MemoryLedger;
using quarrel::OutOfMemoryError;

TEST_CASE("every memory kind has a name of its own") {
  std::set<std::string_view> names;
  for (std::size_t i = 0; i < kMemoryKinds; ++i)
    names.insert(memory_kind_name(static_cast<MemoryKind>(i)));
  CHECK(names.size() == kMemoryKinds);
  CHECK(names.count("unknown") == 0);
}

TEST_CASE("a charge counts for its kind until it is given up; the peak stays") {
  const auto ledger = MemoryLedger::create(100);
  {
    const auto weights = ledger->charge(MemoryKind::Weights, 60);
    const auto kv = ledger->charge(MemoryKind::KV, 30);
    CHECK(weights.bytes() == 60);
    CHECK(ledger->used_bytes() == 90);
    CHECK(ledger->used_bytes(MemoryKind::Weights) == 60);
    CHECK(ledger->used_bytes(MemoryKind::KV) == 30);
    CHECK(ledger->used_bytes(MemoryKind::Scratch) == 0);
  }
  CHECK(ledger->used_bytes() == 0);
  CHECK(ledger->used_bytes(MemoryKind::Weights) == 0);
  CHECK(ledger->peak_bytes() == 90);
}

TEST_CASE("the cap is exact, and a refused charge leaves no trace") {
  const auto ledger = MemoryLedger::create(100);
  const auto held = ledger->charge(MemoryKind::KV, 40);
  CHECK_THROWS_WITH_AS(ledger->charge(MemoryKind::Scratch, 61),
                       "[memory] scratch needs 61 bytes but only 60 of the cap of 100 are free; "
                       "raise memory_limit or lower the context length",
                       OutOfMemoryError);
  // A sum that would wrap around is refused too.
  CHECK_THROWS_AS(ledger->charge(MemoryKind::KV, std::numeric_limits<std::size_t>::max()),
                  OutOfMemoryError);
  CHECK(ledger->used_bytes() == 40);
  CHECK(ledger->peak_bytes() == 40);
  const auto rest = ledger->charge(MemoryKind::Scratch, 60);
  CHECK(ledger->used_bytes() == ledger->cap_bytes());
}

TEST_CASE("moving a charge moves the bytes, never doubles or drops them") {
  const auto ledger = MemoryLedger::create(100);
  auto first = ledger->charge(MemoryKind::KV, 10);
  auto second = std::move(first);
  CHECK(second.bytes() == 10);
  CHECK(first.bytes() == 0);
  CHECK(ledger->used_bytes() == 10);

  second = ledger->charge(MemoryKind::Scratch, 20);
  CHECK(ledger->used_bytes() == 20);
  CHECK(ledger->used_bytes(MemoryKind::KV) == 0);
  second = {};
  CHECK(ledger->used_bytes() == 0);
}

TEST_CASE("a charge that cannot grow stays as it was") {
  const auto ledger = MemoryLedger::create(100);
  auto charge = ledger->charge(MemoryKind::PrefixCache, 10);
  charge.resize(100);
  CHECK(ledger->used_bytes(MemoryKind::PrefixCache) == 100);
  CHECK_THROWS_AS(charge.resize(101), OutOfMemoryError);
  CHECK(charge.bytes() == 100);
  charge.resize(5);
  CHECK(ledger->used_bytes() == 5);
  CHECK(ledger->peak_bytes() == 100);
}

TEST_CASE("tests can have any charge refused") {
  const auto ledger = MemoryLedger::create(100);
  ledger->refuse_charge(2);
  auto first = ledger->charge(MemoryKind::KV, 1);
  CHECK_THROWS_AS(first.resize(2), OutOfMemoryError);
  first.resize(2);
  CHECK(ledger->used_bytes() == 2);
}

TEST_CASE("a charge keeps its ledger alive") {
  auto ledger = MemoryLedger::create(100);
  const std::weak_ptr<MemoryLedger> watched = ledger;
  auto charge = ledger->charge(MemoryKind::Snapshots, 1);
  ledger.reset();
  CHECK_FALSE(watched.expired());
  charge = {};
  CHECK(watched.expired());
}

TEST_CASE("charges of several threads never pass the cap and all come back") {
  constexpr int kThreads = 4;
  constexpr int kRounds = 2000;
  const auto ledger = MemoryLedger::create(2 * kThreads - 1);  // not all can hold two at once
  std::vector<int> refused(kThreads);
  std::vector<std::thread> threads;
  for (int t = 0; t < kThreads; ++t)
    threads.emplace_back([&, t] {
      for (int i = 0; i < kRounds; ++i) {
        try {
          const auto one = ledger->charge(MemoryKind::KV, 1);
          const auto two = ledger->charge(MemoryKind::Scratch, 1);
        } catch (const OutOfMemoryError&) {
          ++refused[static_cast<std::size_t>(t)];
        }
      }
    });
  for (auto& thread : threads) thread.join();
  CHECK(ledger->used_bytes() == 0);
  CHECK(ledger->peak_bytes() >= 2);
  CHECK(ledger->peak_bytes() <= ledger->cap_bytes());
  for (const int n : refused) CHECK(n < kRounds);
}
