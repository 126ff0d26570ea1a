// Logs of what ran when and of what the cache did, as Python reads them.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/string_view.h>
#include <nanobind/stl/vector.h>

#include <array>
#include <cstdint>
#include <memory>
#include <string_view>
#include <utility>
#include <vector>

#include "cache/cache_events.h"
#include "core/error.h"
#include "core/span_log.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace quarrel {
namespace {

using Table = nb::ndarray<nb::numpy, std::int64_t, nb::ndim<2>>;

// [n_records, n_columns], owned by Python.
template <std::size_t kColumns, class Record, class Row>
Table table(const std::vector<Record>& records, const Row& row) {
  auto values = std::make_unique<std::vector<std::array<std::int64_t, kColumns>>>();
  values->reserve(records.size());
  for (const Record& record : records) values->push_back(row(record));
  auto* rows = values.release();
  const nb::capsule owner(rows, [](void* p) noexcept { delete static_cast<decltype(rows)>(p); });
  return Table(rows->data(), {rows->size(), kColumns}, owner);
}

const Ring<Span>& track(const SpanLog& log, std::size_t i) {
  if (i >= log.n_tracks())
    throw InvalidArgument("[span_log] expected a track below " + std::to_string(log.n_tracks()) +
                          ", got " + std::to_string(i));
  return log.track(i);
}

Table spans(const SpanLog& log, std::size_t i) {
  return table<4>(track(log, i).records(), [](const Span& s) {
    return std::array<std::int64_t, 4>{s.start_ns, s.end_ns, s.name, s.n_items};
  });
}

Table events(const CacheEventLog& log) {
  return table<6>(log.events().records(), [](const CacheEvent& e) {
    return std::array<std::int64_t, 6>{
        e.at_ns, static_cast<std::int64_t>(e.kind), e.group, e.block, e.count, e.reason};
  });
}

}  // namespace

void bind_trace(nb::module_& m) {
  m.def("now_ns", &SpanLog::now_ns, "The clock of all logs.");
  nb::class_<SpanLog>(m, "SpanLog", "When what ran on which thread.")
      .def(
          nb::init<std::shared_ptr<MemoryLedger>, std::size_t, std::size_t>(), "ledger"_a,
          "n_tracks"_a, "spans_per_track"_a,
          "spans_per_track: how many of the last spans of a track are kept, rounded up to a power\n"
          "of two; their memory is taken now, 24 bytes each, and charged as scratch.")
      .def_prop_ro("names", &SpanLog::names)
      .def_prop_ro("n_tracks", &SpanLog::n_tracks)
      .def(
          "spans", &spans, "track"_a,
          "[n_spans, 4] int64: start and end in ns, number of the name, items of a loop that this\n"
          "thread took. In the order in which they ended; only between two steps.")
      .def(
          "n_lost", [](const SpanLog& log, std::size_t i) { return track(log, i).n_lost(); },
          "track"_a, "Spans of a track that later ones have taken the place of.")
      .def("clear", &SpanLog::clear);
  nb::class_<CacheEventLog>(m, "CacheEventLog", "What happened to the blocks of a cache, and when.")
      .def(
          nb::init<std::shared_ptr<MemoryLedger>, std::size_t>(), "ledger"_a, "capacity"_a,
          "capacity: how many of the last events are kept, rounded up to a power of two; 32 bytes\n"
          "each, charged as scratch.")
      .def_prop_ro_static(
          "KINDS",
          [](nb::handle) {
            return std::vector<std::string_view>(kCacheEventNames.begin(), kCacheEventNames.end());
          },
          "Names of the kinds of events.")
      .def_prop_ro_static(
          "MISS_REASONS",
          [](nb::handle) {
            return std::vector<std::string_view>(kMissReasons.begin(), kMissReasons.end());
          },
          "Names of the reasons of misses.")
      .def("events", &events,
           "[n_events, 6] int64: time in ns, kind (of KINDS), layer group or -1 for all, first\n"
           "block or -1, blocks or tokens, reason (of MISS_REASONS) or -1. Oldest first.")
      .def_prop_ro(
          "n_lost", [](const CacheEventLog& log) { return log.events().n_lost(); },
          "Events that later ones have taken the place of.")
      .def("clear", &CacheEventLog::clear);
}

}  // namespace quarrel
