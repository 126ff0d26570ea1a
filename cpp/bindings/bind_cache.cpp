// Cache strategies, as Python sees them. Sequence ids are plain integers there.
#include <nanobind/nanobind.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string_view.h>
#include <nanobind/stl/vector.h>

#include <memory>
#include <vector>

#include "bindings/arrays.h"
#include "cache/contiguous_cache.h"
#include "cache/kv_cache.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace quarrel {
namespace {

SequenceId sequence(std::int64_t id) { return SequenceId{id}; }

std::vector<std::vector<BlockId>> block_tables(const SequenceView& view) {
  std::vector<std::vector<BlockId>> tables;
  for (const auto& table : view.block_tables) tables.emplace_back(table.begin(), table.end());
  return tables;
}

void bind_results(nb::module_& m) {
  nb::class_<PrefixMatch>(m, "PrefixMatch", "A new sequence and how much of its prompt was there.")
      .def_prop_ro("sequence",
                   [](const PrefixMatch& p) { return static_cast<std::int64_t>(p.sequence); })
      .def_ro("n_tokens", &PrefixMatch::n_tokens)
      .def_ro("miss_reason", &PrefixMatch::miss_reason);
  nb::class_<Reservation>(m, "Reservation", "Room for tokens, or the reason why there is none.")
      .def_ro("ok", &Reservation::ok)
      .def_ro("reason", &Reservation::reason)
      .def("__bool__", [](const Reservation& r) { return r.ok; });
  nb::class_<Fork>(m, "Fork")
      .def_ro("reservation", &Fork::reservation)
      .def_prop_ro("sequence",
                   [](const Fork& f) { return static_cast<std::int64_t>(f.sequence); });
  nb::class_<CacheStats>(m, "CacheStats", "Counts since the cache was made; blocks of all groups.")
      .def_ro("n_blocks", &CacheStats::n_blocks)
      .def_ro("n_used_blocks", &CacheStats::n_used_blocks)
      .def_ro("n_cached_blocks", &CacheStats::n_cached_blocks)
      .def_ro("n_sequences", &CacheStats::n_sequences)
      .def_ro("n_prefix_queries_tokens", &CacheStats::n_prefix_queries_tokens)
      .def_ro("n_prefix_hit_tokens", &CacheStats::n_prefix_hit_tokens)
      .def_ro("n_evicted_blocks", &CacheStats::n_evicted_blocks);
}

}  // namespace

void bind_cache(nb::module_& m) {
  bind_results(m);
  nb::class_<KVCache>(m, "KVCache", "Bookkeeping of blocks; see cpp/cache/kv_cache.h.")
      .def_prop_ro("strategy", &KVCache::strategy)
      .def_prop_ro("block_size", &KVCache::block_size)
      .def_prop_ro("n_groups", &KVCache::n_groups)
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
          "sequence"_a, "n_tokens"_a)
      .def(
          "commit",
          [](KVCache& c, std::int64_t id, const Vector<TokenId>& tokens) {
            c.commit(sequence(id), as_span(tokens));
          },
          "sequence"_a, "tokens"_a)
      .def(
          "fork", [](KVCache& c, std::int64_t id) { return c.fork(sequence(id)); }, "sequence"_a)
      .def(
          "trim",
          [](KVCache& c, std::int64_t id, std::size_t n_tokens) {
            c.trim(sequence(id), n_tokens);
          },
          "sequence"_a, "n_tokens"_a)
      .def(
          "release", [](KVCache& c, std::int64_t id) { c.release(sequence(id)); }, "sequence"_a)
      .def(
          "n_tokens", [](const KVCache& c, std::int64_t id) { return c.view(sequence(id)).n_tokens; },
          "sequence"_a, "Committed tokens.")
      .def(
          "block_tables",
          [](const KVCache& c, std::int64_t id) { return block_tables(c.view(sequence(id))); },
          "sequence"_a, "Block ids, one list per layer group.")
      .def("stats", &KVCache::stats)
      .def("check_invariants", &KVCache::check_invariants);

  nb::class_<ContiguousCache, KVCache>(m, "ContiguousCache",
                                       "One reserved run of consecutive blocks per sequence.")
      .def(nb::init<std::size_t, std::size_t, std::size_t, bool>(), "n_groups"_a, "block_size"_a,
           "n_blocks"_a, "reuse_prefixes"_a);
}

}  // namespace quarrel
