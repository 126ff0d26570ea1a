// Cache strategies, as Python sees them. Sequence ids are plain integers there.
#include <nanobind/nanobind.h>
#include <nanobind/stl/map.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/string_view.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <cstdint>
#include <limits>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <tuple>
#include <utility>
#include <vector>

#include "bindings/arrays.h"
#include "bindings/python_cache.h"
#include "cache/contiguous_cache.h"
#include "cache/kv_cache.h"
#include "core/error.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace quarrel {

void bind_eviction(nb::module_& m);
void bind_paged(nb::module_& m);

namespace {

SequenceId sequence(std::int64_t id) { return SequenceId{id}; }

std::vector<std::vector<BlockId>> block_tables(const SequenceView& view) {
  std::vector<std::vector<BlockId>> tables;
  for (const auto& table : view.block_tables) tables.emplace_back(table.begin(), table.end());
  return tables;
}

std::map<std::string_view, std::size_t> missed_tokens(const CacheStats& stats) {
  std::map<std::string_view, std::size_t> missed;
  for (std::size_t i = 0; i < kMissReasons.size(); ++i)
    missed[kMissReasons[i]] = stats.n_missed_tokens[i];
  return missed;
}

std::pair<std::vector<std::pair<double, std::size_t>>, double> lifetimes(const CacheStats& stats) {
  const auto& bounds = BlockLifetimes::kBoundsSeconds;
  std::vector<std::pair<double, std::size_t>> buckets;
  for (std::size_t i = 0; i <= bounds.size(); ++i)
    buckets.emplace_back(i < bounds.size() ? bounds[i] : std::numeric_limits<double>::infinity(),
                         stats.lifetimes.n_blocks[i]);
  return {buckets, static_cast<double>(stats.lifetimes.total_microseconds) * 1e-6};
}

void bind_results(nb::module_& m) {
  nb::class_<PrefixMatch>(m, "PrefixMatch", "A new sequence and how much of its prompt was there.")
      .def(
          "__init__",
          [](PrefixMatch* p, std::int64_t id, std::size_t n_tokens, std::string miss_reason) {
            new (p) PrefixMatch{SequenceId{id}, n_tokens, std::move(miss_reason)};
          },
          "sequence"_a, "n_tokens"_a, "miss_reason"_a)
      .def_prop_ro("sequence",
                   [](const PrefixMatch& p) { return static_cast<std::int64_t>(p.sequence); })
      .def_ro("n_tokens", &PrefixMatch::n_tokens)
      .def_ro("miss_reason", &PrefixMatch::miss_reason);
  nb::class_<Reservation>(m, "Reservation", "Room for tokens, or the reason why there is none.")
      .def(
          "__init__",
          [](Reservation* r, bool ok, std::string reason) {
            new (r) Reservation{ok, std::move(reason)};
          },
          "ok"_a, "reason"_a = "")
      .def_ro("ok", &Reservation::ok)
      .def_ro("reason", &Reservation::reason)
      .def("__bool__", [](const Reservation& r) { return r.ok; });
  nb::class_<Fork>(m, "Fork", "A copy of a sequence, or the reason why there is none.")
      .def(
          "__init__",
          [](Fork* f, const Reservation& reservation, std::int64_t id) {
            new (f) Fork{reservation, SequenceId{id}};
          },
          "reservation"_a, "sequence"_a)
      .def_ro("reservation", &Fork::reservation)
      .def_prop_ro("sequence", [](const Fork& f) { return static_cast<std::int64_t>(f.sequence); });
  nb::class_<CacheStats>(m, "CacheStats", "Counts since the cache was made; blocks of all groups.")
      .def("__init__", [](CacheStats* s) { new (s) CacheStats{}; })
      .def_rw("n_blocks", &CacheStats::n_blocks)
      .def_rw("n_used_blocks", &CacheStats::n_used_blocks)
      .def_rw("n_cached_blocks", &CacheStats::n_cached_blocks)
      .def_rw("n_sequences", &CacheStats::n_sequences)
      .def_rw("n_prefix_queries_tokens", &CacheStats::n_prefix_queries_tokens)
      .def_rw("n_prefix_hit_tokens", &CacheStats::n_prefix_hit_tokens)
      .def_rw("n_evicted_blocks", &CacheStats::n_evicted_blocks)
      .def_rw("n_window_blocks", &CacheStats::n_window_blocks)
      .def_rw("n_copied_blocks", &CacheStats::n_copied_blocks)
      .def("count_match", &CacheStats::count_match, "n_queried"_a, "n_hit"_a, "reason"_a,
           "A prompt of n_queried tokens of which n_hit were there, and why it were not more.")
      .def_prop_ro("n_missed_tokens", &missed_tokens, "Queries that were no hits, by reason.")
      .def_prop_ro("block_lifetimes", &lifetimes,
                   "How long blocks were held: (seconds at most, blocks) of each bucket, the last "
                   "without\na bound, and the sum in seconds.");
}

std::vector<std::tuple<std::size_t, BlockId, BlockId>> take_copies(KVCache& cache) {
  std::vector<std::tuple<std::size_t, BlockId, BlockId>> copies;
  for (const BlockCopy& copy : cache.take_copies())
    copies.emplace_back(copy.group, copy.from, copy.to);
  return copies;
}

std::pair<std::size_t, std::size_t> group_spec(const KVCache& cache, std::size_t group) {
  if (group >= cache.n_groups())
    throw InvalidArgument("[kv_cache] expected a layer group below " +
                          std::to_string(cache.n_groups()) + ", got " + std::to_string(group));
  const GroupSpec spec = cache.group_spec(group);
  return {spec.window, spec.sinks};
}

}  // namespace

void bind_cache(nb::module_& m) {
  bind_results(m);
  bind_eviction(m);
  // The methods' names are also those that a strategy written in Python overrides.
  nb::class_<KVCache, PythonCache>(
      m, "KVCache",
      "Bookkeeping of blocks; see cpp/cache/kv_cache.h.\n\n"
      "A strategy in Python derives from it and overrides every method.")
      .def(nb::init<std::string, std::size_t, std::vector<GroupPair>>(), "strategy"_a,
           "block_size"_a, "groups"_a,
           "groups: (window, sinks) of each layer group; window 0: all.")
      .def_prop_ro("strategy", &KVCache::strategy)
      .def_prop_ro("block_size", &KVCache::block_size)
      .def_prop_ro("n_groups", &KVCache::n_groups)
      .def("group_spec", &group_spec, "group"_a,
           "(window, sinks) that attention must keep to; window 0: the model's own.")
      .def(
          "match_prefix",
          [](KVCache& c, const Vector<TokenId>& prompt, std::size_t max_tokens) {
            return c.match_prefix(as_span(prompt), max_tokens);
          },
          "prompt"_a, "max_tokens"_a,
          "Open a sequence for prompt (int32), which will never hold more than max_tokens.")
      .def(
          "reserve",
          [](KVCache& c, std::int64_t id, std::size_t n_tokens) {
            return c.reserve(sequence(id), n_tokens);
          },
          "sequence"_a, "n_tokens"_a, "Make room for the next n_tokens, in all groups or in none.")
      .def(
          "commit",
          [](KVCache& c, std::int64_t id, const Vector<TokenId>& tokens) {
            c.commit(sequence(id), as_span(tokens));
          },
          "sequence"_a, "tokens"_a, "These tokens (int32) were computed into reserved slots.")
      .def(
          "fork", [](KVCache& c, std::int64_t id) { return c.fork(sequence(id)); }, "sequence"_a,
          "A second sequence with the same tokens; both must reserve before they commit again.")
      .def(
          "trim",
          [](KVCache& c, std::int64_t id, std::size_t n_tokens) {
            return c.trim(sequence(id), n_tokens);
          },
          "sequence"_a, "n_tokens"_a,
          "Forget what follows the first n_tokens. Returns how many are held now, which is fewer\n"
          "where a windowed group has let go of what a resume there needs.")
      .def(
          "release", [](KVCache& c, std::int64_t id) { c.release(sequence(id)); }, "sequence"_a,
          "End the sequence; its full blocks may stay for reuse.")
      .def(
          "n_tokens",
          [](const KVCache& c, std::int64_t id) { return c.view(sequence(id)).n_tokens; },
          "sequence"_a, "Committed tokens.")
      .def(
          "block_tables",
          [](const KVCache& c, std::int64_t id) { return block_tables(c.view(sequence(id))); },
          "sequence"_a, "Block ids, one list per layer group; -1 where the cache let a block go.")
      .def("take_copies", &take_copies,
           "(group, from, to) of the blocks to copy before the next step, in order.")
      .def("set_event_log", &KVCache::set_event_log, "log"_a.none(),
           "What happens to blocks from now on goes to this CacheEventLog; None: nowhere.\n"
           "Strategies in Python note nothing.")
      .def("stats", &KVCache::stats, "May be called from any thread.")
      .def("check_invariants", &KVCache::check_invariants,
           "Raise QuarrelError if the bookkeeping contradicts itself.");

  nb::class_<ContiguousCache, KVCache>(m, "ContiguousCache",
                                       "One reserved run of consecutive blocks per sequence.")
      .def(
          "__init__",
          [](ContiguousCache* self, std::size_t n_groups, std::size_t block_size,
             std::size_t n_blocks, bool reuse_prefixes, std::shared_ptr<MemoryLedger> ledger,
             std::size_t max_sequences) {
            new (self) ContiguousCache(n_groups, block_size, n_blocks, reuse_prefixes,
                                       {std::move(ledger), max_sequences, 0});
          },
          "n_groups"_a, "block_size"_a, "n_blocks"_a, "reuse_prefixes"_a, "ledger"_a = nb::none(),
          "max_sequences"_a = 0)
      .def_static("bookkeeping_bytes", &ContiguousCache::bookkeeping_bytes, "block_size"_a,
                  "n_blocks"_a, "max_sequences"_a, "What such a cache charges to its ledger.");
  bind_paged(m);
}

}  // namespace quarrel
