// The paged strategies and eviction policies, which Python can write too.
#include <nanobind/nanobind.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string_view.h>
#include <nanobind/stl/vector.h>

#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "bindings/python_cache.h"
#include "bindings/python_override.h"
#include "cache/eviction.h"
#include "cache/paged_cache.h"
#include "cache/sliding_window_cache.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace quarrel {
namespace {

class PythonEviction final : public EvictionPolicy {
 public:
  std::string_view name() const override { return "in Python"; }
  void insert(BlockId block, const BlockUse& use) override {
    call_python<void>(base(), "insert", [&] { return nb::make_tuple(block, use); });
  }
  void erase(BlockId block) override {
    call_python<void>(base(), "erase", [&] { return nb::make_tuple(block); });
  }
  BlockId victim() override {
    return call_python<BlockId>(base(), "victim", [] { return nb::make_tuple(); });
  }

 private:
  const EvictionPolicy* base() const { return this; }
};

PagedConfig config(const std::vector<GroupPair>& groups, std::size_t block_size,
                   std::vector<std::size_t> n_blocks,
                   std::vector<std::shared_ptr<EvictionPolicy>> policies, bool reuse_prefixes,
                   std::uint64_t fingerprint, int hash_bits, std::size_t max_step_tokens,
                   BookkeepingLimits limits) {
  PagedConfig config{{},
                     block_size,
                     std::move(n_blocks),
                     reuse_prefixes,
                     fingerprint,
                     std::move(policies),
                     hash_bits,
                     max_step_tokens,
                     std::move(limits)};
  for (const auto& [window, sinks] : groups) config.groups.push_back({window, sinks});
  return config;
}

constexpr const char* kPagedDoc =
    "groups: (window, sinks) of each layer group; window 0: all. n_blocks, policies: one per "
    "group.\n"
    "fingerprint: of what K and V depend on beside the tokens. hash_bits: fewer than 64 force\n"
    "collisions, for tests. max_step_tokens: the most tokens of a sequence that a step computes;\n"
    "groups with a window reserve no more ahead (0: any number). ledger: charged for the tables "
    "of\n"
    "max_sequences sequences of max_tokens at once, and for others as they come.";

}  // namespace

void bind_eviction(nb::module_& m) {
  nb::class_<BlockUse>(m, "BlockUse", "What is known of a block; times count a group's events.")
      .def_ro("published_at", &BlockUse::published_at)
      .def_ro("released_at", &BlockUse::released_at)
      .def_ro("n_uses", &BlockUse::n_uses);
  nb::class_<EvictionPolicy, PythonEviction>(
      m, "EvictionPolicy",
      "Which cached block of a layer group goes first.\n\n"
      "A policy in Python derives from it and overrides insert, erase and victim.")
      .def(nb::init<>())
      .def("insert", &EvictionPolicy::insert, "block"_a, "use"_a, "The block may go from now on.")
      .def("erase", &EvictionPolicy::erase, "block"_a, "The block was chosen, or is in use again.")
      .def("victim", &EvictionPolicy::victim, "One of the inserted blocks; erase follows.");
  m.def("eviction_policy_bytes", &eviction_policy_bytes, "n_blocks"_a,
        "What a native policy takes for a layer group, in bytes.");
  m.def("make_eviction_policy", &make_eviction_policy, "name"_a, "n_blocks"_a,
        "A native policy: lru, lfu or fifo.");
}

void bind_paged(nb::module_& m) {
  nb::class_<PagedCache, KVCache>(m, "PagedCache", "Blocks on demand, shared by equal beginnings.")
      .def(
          "__init__",
          [](PagedCache* self, const std::vector<GroupPair>& groups, std::size_t block_size,
             std::vector<std::size_t> n_blocks,
             std::vector<std::shared_ptr<EvictionPolicy>> policies, bool reuse_prefixes,
             std::uint64_t fingerprint, int hash_bits, std::size_t max_step_tokens,
             std::shared_ptr<MemoryLedger> ledger, std::size_t max_sequences,
             std::size_t max_tokens) {
            new (self)
                PagedCache(config(groups, block_size, std::move(n_blocks), std::move(policies),
                                  reuse_prefixes, fingerprint, hash_bits, max_step_tokens,
                                  {std::move(ledger), max_sequences, max_tokens}));
          },
          "groups"_a, "block_size"_a, "n_blocks"_a, "policies"_a, "reuse_prefixes"_a = true,
          "fingerprint"_a = 0, "hash_bits"_a = 64, "max_step_tokens"_a = 0, "ledger"_a = nb::none(),
          "max_sequences"_a = 0, "max_tokens"_a = 0, kPagedDoc)
      .def_static(
          "bookkeeping_bytes",
          [](const std::vector<GroupPair>& groups, std::size_t block_size,
             std::vector<std::size_t> n_blocks, bool reuse_prefixes, std::size_t max_sequences,
             std::size_t max_tokens) {
            return PagedCache::bookkeeping_bytes(config(groups, block_size, std::move(n_blocks), {},
                                                        reuse_prefixes, 0, 64, 0,
                                                        {nullptr, max_sequences, max_tokens}));
          },
          "groups"_a, "block_size"_a, "n_blocks"_a, "reuse_prefixes"_a, "max_sequences"_a,
          "max_tokens"_a, "What such a cache, with native policies, charges to its ledger.");
  nb::class_<SlidingWindowCache, PagedCache>(
      m, "SlidingWindowCache", "The last window tokens and the first sinks of each sequence.")
      .def(
          "__init__",
          [](SlidingWindowCache* self, std::size_t window, std::size_t sinks,
             const std::vector<GroupPair>& groups, std::size_t block_size,
             std::vector<std::size_t> n_blocks,
             std::vector<std::shared_ptr<EvictionPolicy>> policies, bool reuse_prefixes,
             std::uint64_t fingerprint, int hash_bits, std::size_t max_step_tokens,
             std::shared_ptr<MemoryLedger> ledger, std::size_t max_sequences,
             std::size_t max_tokens) {
            new (self) SlidingWindowCache(
                config(groups, block_size, std::move(n_blocks), std::move(policies), reuse_prefixes,
                       fingerprint, hash_bits, max_step_tokens,
                       {std::move(ledger), max_sequences, max_tokens}),
                window, sinks);
          },
          "window"_a, "sinks"_a, "groups"_a, "block_size"_a, "n_blocks"_a, "policies"_a,
          "reuse_prefixes"_a = true, "fingerprint"_a = 0, "hash_bits"_a = 64,
          "max_step_tokens"_a = 0, "ledger"_a = nb::none(), "max_sequences"_a = 0,
          "max_tokens"_a = 0, kPagedDoc);
}

}  // namespace quarrel
