#include <doctest/doctest.h>

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <memory>

#include "core/error.h"
#include "core/memory_ledger.h"
#include "core/ring.h"
#include "core/span_log.h"
#include "core/thread_pool.h"

using quarrel::MemoryKind;
using quarrel::MemoryLedger;
using quarrel::OutOfMemoryError;
using quarrel::Ring;
using quarrel::ScopedSpan;
using quarrel::Span;
using quarrel::SpanLog;
using quarrel::ThreadPool;

TEST_CASE("a ring keeps the last records and counts the others") {
  const auto ledger = MemoryLedger::create(1 << 20);
  Ring<int> ring(*ledger, 3);
  CHECK(ring.capacity() == 4);
  for (int i = 0; i < 4; ++i) ring.push(i);
  CHECK(ring.n_lost() == 0);
  CHECK(ring.records() == std::vector<int>{0, 1, 2, 3});
  for (int i = 4; i < 10; ++i) ring.push(i);
  CHECK(ring.n_lost() == 6);
  CHECK(ring.records() == std::vector<int>{6, 7, 8, 9});
  ring.clear();
  CHECK(ring.n_lost() == 0);
  CHECK(ring.records().empty());
}

TEST_CASE("a log's memory is charged, refused and given back") {
  const auto ledger = MemoryLedger::create(3 * 64 * sizeof(Span));
  {
    const SpanLog log(ledger, 3, 64);
    CHECK(ledger->used_bytes(MemoryKind::Scratch) == 3 * 64 * sizeof(Span));
    CHECK_THROWS_AS(SpanLog(ledger, 1, 64), OutOfMemoryError);
  }
  CHECK(ledger->used_bytes() == 0);
}

TEST_CASE("names are given out once") {
  SpanLog log(MemoryLedger::create(1 << 20), 1, 8);
  CHECK(log.intern("attention") == 0);
  CHECK(log.intern("linear") == 1);
  CHECK(log.intern("attention") == 0);
  CHECK(log.names() == std::vector<std::string>{"attention", "linear"});
}

TEST_CASE("a scoped span lasts as long as it lives, and is nothing without a log") {
  SpanLog log(MemoryLedger::create(1 << 20), 1, 8);
  const std::int64_t before = SpanLog::now_ns();
  {
    const ScopedSpan span(&log, 0, 7);
    const ScopedSpan elsewhere(&log, 5, 7);  // a track that does not exist
    const ScopedSpan none(nullptr, 0, 7);
  }
  const auto spans = log.track(0).records();
  REQUIRE(spans.size() == 1);
  CHECK(spans[0].name == 7);
  CHECK(before <= spans[0].start_ns);
  CHECK(spans[0].start_ns <= spans[0].end_ns);
  CHECK(spans[0].end_ns <= SpanLog::now_ns());
}

TEST_CASE("a pool notes which thread took how many items of a loop, and when") {
  for (const int n_threads : {1, 3}) {
    const auto log = std::make_shared<SpanLog>(MemoryLedger::create(1 << 24),
                                               static_cast<std::size_t>(n_threads), 1 << 12);
    ThreadPool pool(n_threads);
    std::atomic<int> n_runs{0};
    const auto loop = [&](std::size_t n) {
      pool.parallel_for(n, [&](std::size_t, int) { ++n_runs; });
    };
    loop(50);  // before: not noted
    pool.set_trace(log);
    std::int64_t last = SpanLog::now_ns();
    for (const std::uint32_t name : {0u, 1u, 2u}) {
      pool.name_loops(name);
      loop(name == 1 ? 1 : 400);
      const std::int64_t done = SpanLog::now_ns();
      std::size_t n_items = 0;
      for (std::size_t t = 0; t < log->n_tracks(); ++t)
        for (const Span& span : log->track(t).records()) {
          if (span.name != name) continue;
          n_items += span.n_items;
          CHECK(last <= span.start_ns);
          CHECK(span.start_ns <= span.end_ns);
          CHECK(span.end_ns <= done);
        }
      CHECK(n_items == (name == 1 ? 1 : 400));
      last = done;
    }
    pool.set_trace(nullptr);
    loop(50);
    std::size_t n_spans = 0;
    for (std::size_t t = 0; t < log->n_tracks(); ++t) n_spans += log->track(t).records().size();
    CHECK(n_spans <= 3 * static_cast<std::size_t>(n_threads));
    CHECK(n_runs == 50 + 400 + 1 + 400 + 50);
  }
}
