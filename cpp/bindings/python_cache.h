// Cache strategies written in Python: the native interface, answered by a Python class.
#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <tuple>
#include <utility>
#include <vector>

#include "bindings/python_override.h"
#include "cache/kv_cache.h"
#include "core/error.h"

namespace quarrel {

using GroupPair = std::pair<std::size_t, std::size_t>;  // window, sinks

// What never changes is told to the constructor, so that a step asks Python per sequence only.
class PythonCache final : public KVCache {
 public:
  PythonCache(std::string strategy, std::size_t block_size, const std::vector<GroupPair>& groups)
      : strategy_(std::move(strategy)), block_size_(block_size) {
    if (block_size == 0 || groups.empty() || groups.size() > kMaxLayerGroups)
      throw InvalidArgument("[kv_cache] expected a block size and 1 to " +
                            std::to_string(kMaxLayerGroups) + " layer groups");
    for (const auto& [window, sinks] : groups) groups_.push_back({window, sinks});
  }

  std::string_view strategy() const override { return strategy_; }
  std::size_t block_size() const override { return block_size_; }
  std::size_t n_groups() const override { return groups_.size(); }
  GroupSpec group_spec(std::size_t group) const override { return groups_[group]; }

  PrefixMatch match_prefix(std::span<const TokenId> prompt, std::size_t max_tokens) override {
    return ask<PrefixMatch>("match_prefix", prompt, max_tokens);
  }
  Reservation reserve(SequenceId id, std::size_t n_tokens) override {
    return ask<Reservation>("reserve", id, n_tokens);
  }
  void commit(SequenceId id, std::span<const TokenId> tokens) override {
    ask<void>("commit", id, tokens);
  }
  Fork fork(SequenceId id) override { return ask<Fork>("fork", id); }
  std::size_t trim(SequenceId id, std::size_t n_tokens) override {
    return ask<std::size_t>("trim", id, n_tokens);
  }
  void release(SequenceId id) override {
    ask<void>("release", id);
    tables_.erase(id);
  }

  SequenceView view(SequenceId id) const override {
    auto& tables = tables_[id];
    tables = ask<std::vector<std::vector<BlockId>>>("block_tables", id);
    if (tables.size() != groups_.size())
      throw InvalidArgument("[" + strategy_ + "] expected block_tables to return " +
                            std::to_string(groups_.size()) + " lists, got " +
                            std::to_string(tables.size()));
    SequenceView view{ask<std::size_t>("n_tokens", id), BlockTables(tables.size())};
    for (std::size_t g = 0; g < tables.size(); ++g) view.block_tables[g] = tables[g];
    return view;
  }

  std::vector<BlockCopy> take_copies() override {
    std::vector<BlockCopy> copies;
    for (const auto& [group, from, to] :
         ask<std::vector<std::tuple<std::size_t, BlockId, BlockId>>>("take_copies"))
      copies.push_back({group, from, to});
    return copies;
  }
  CacheStats stats() const override { return ask<CacheStats>("stats"); }
  void check_invariants() const override { ask<void>("check_invariants"); }

 private:
  using Tokens = nanobind::ndarray<const TokenId, nanobind::numpy, nanobind::ndim<1>>;

  static std::int64_t argument(SequenceId id) { return static_cast<std::int64_t>(id); }
  static std::size_t argument(std::size_t n) { return n; }
  // Valid during the call only: a strategy that keeps the tokens must copy them.
  static Tokens argument(std::span<const TokenId> tokens) {
    const std::size_t n = tokens.size();
    return Tokens(tokens.data(), {n}, nanobind::none());
  }

  template <class Result, class... Args>
  Result ask(const char* method, const Args&... args) const {
    return call_python<Result>(static_cast<const KVCache*>(this), method,
                               [&] { return nanobind::make_tuple(argument(args)...); });
  }

  const std::string strategy_;
  const std::size_t block_size_;
  std::vector<GroupSpec> groups_;
  mutable std::map<SequenceId, std::vector<std::vector<BlockId>>> tables_;  // what views point to
};

}  // namespace quarrel
