#include "texts.h"

#include <algorithm>
#include <utility>

#include "cache/block_hash.h"
#include "cache/contiguous_cache.h"
#include "cache/paged_cache.h"
#include "cache/sliding_window_cache.h"
#include "core/checksum.h"
#include "core/error.h"

namespace quarrel::bench {
namespace {

std::size_t blocks_for(std::size_t n_tokens, std::size_t block_size) {
  return (n_tokens + block_size - 1) / block_size;
}

// With --window all strategies compute what that window lets through, else the whole text.
std::vector<GroupSpec> masks(const Options& options) {
  if (options.window == 0) return {};
  return {mask_of(options)};
}

}  // namespace

std::unique_ptr<KVCache> make_cache(std::string_view strategy, std::size_t n_blocks,
                                    std::size_t block_size, GroupSpec mask, std::size_t max_tokens,
                                    bool reuse_prefixes) {
  if (strategy == "contiguous")
    return std::make_unique<ContiguousCache>(1, block_size, n_blocks, reuse_prefixes);
  PagedConfig config;
  config.groups = {GroupSpec{}};
  config.block_size = block_size;
  config.n_blocks = {n_blocks};
  config.reuse_prefixes = reuse_prefixes;
  config.policies.push_back(make_eviction_policy("lru", n_blocks));
  if (strategy == "paged") return std::make_unique<PagedCache>(std::move(config));
  const std::size_t window = mask.window != 0 ? mask.window : max_tokens;
  return std::make_unique<SlidingWindowCache>(std::move(config), window, mask.sinks);
}

TokenId token_at(std::size_t text, std::size_t position, std::size_t vocab_size) {
  return static_cast<TokenId>(mix_bits(text * 1000003 + position) % vocab_size);
}

Texts::Texts(const Setup& setup, const Program& program, std::size_t n_tokens,
             std::size_t vocab_size)
    : vocab_size_(vocab_size), assembler_(vocab_size, masks(setup.options)) {
  const std::size_t block_size = setup.options.block_size;
  const std::size_t n_blocks = setup.at.batch * blocks_for(n_tokens, block_size);
  storage_ = setup.device->allocate_kv(
      program, {block_size, {n_blocks}, setup.at.k_dtype, setup.at.v_dtype}, *setup.ledger);
  cache_ = make_cache(setup.at.cache, n_blocks, block_size, mask_of(setup.options), n_tokens,
                      /*reuse_prefixes=*/false);
  for (std::size_t i = 0; i < setup.at.batch; ++i)
    sequences_.push_back(cache_->match_prefix({}, n_tokens).sequence);
}

void Texts::extend(Executable& executable, std::size_t n_tokens, std::size_t chunk) {
  for (const SequenceId& sequence : sequences_)
    for (std::size_t first = 0; first < n_tokens; first += chunk) {
      const std::size_t n = std::min(chunk, n_tokens - first);
      executable.run(assemble({&sequence, 1}, n, Phase::Prefill, false), *storage_);
      cache_->commit(sequence, tokens_);
    }
}

StepInputs Texts::next(std::size_t n_tokens, bool all_rows) {
  return assemble(sequences_, n_tokens, n_tokens == 1 ? Phase::Decode : Phase::Prefill, all_rows);
}

StepInputs Texts::assemble(std::span<const SequenceId> sequences, std::size_t n_tokens, Phase phase,
                           bool all_rows) {
  starts_.assign(1, 0);
  tokens_.clear();
  selected_.clear();
  for (const SequenceId& id : sequences) {
    if (const auto room = cache_->reserve(id, n_tokens); !room.ok)
      throw Error("[bench] the cache has no room for a step: " + room.reason);
    const auto text = static_cast<std::size_t>(&id - sequences_.data());
    const std::size_t first = cache_->view(id).n_tokens;
    for (std::size_t i = 0; i < n_tokens; ++i) {
      if (all_rows || i + 1 == n_tokens)
        selected_.push_back(static_cast<std::int32_t>(tokens_.size()));
      tokens_.push_back(token_at(text, first + i, vocab_size_));
    }
    starts_.push_back(static_cast<std::int32_t>(tokens_.size()));
  }
  const std::size_t n_decodes = phase == Phase::Decode ? sequences.size() : 0;
  return assembler_.assemble({sequences, starts_, tokens_, selected_, n_decodes}, *cache_);
}

std::size_t n_visible(const GroupSpec& mask, std::size_t query) {
  const std::size_t all = query + 1;
  if (mask.window == 0 || all <= mask.window) return all;
  return mask.window + std::min(mask.sinks, all - mask.window);
}

std::uint64_t hash_of(std::span<const float> values) { return xxh64(std::as_bytes(values)); }

}  // namespace quarrel::bench
