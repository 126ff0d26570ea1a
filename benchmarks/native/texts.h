// Sequences in a cache on a device, and the steps that make them longer.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string_view>
#include <vector>

#include "cache/kv_cache.h"
#include "op.h"
#include "program/device.h"
#include "program/step_assembler.h"

namespace quarrel::bench {

// A strategy by its name, for sequences of at most max_tokens. mask: what attention may see; window
// 0 is all, and a strategy that needs a window takes max_tokens.
std::unique_ptr<KVCache> make_cache(std::string_view strategy, std::size_t n_blocks,
                                    std::size_t block_size, GroupSpec mask, std::size_t max_tokens,
                                    bool reuse_prefixes);

// The token at a position of a text: the same in every run, other ones in every text.
TokenId token_at(std::size_t text, std::size_t position, std::size_t vocab_size);

class Texts {
 public:
  // n_tokens: what each of setup.at.batch sequences may hold. The program has one layer group.
  Texts(const Setup& setup, const Program& program, std::size_t n_tokens, std::size_t vocab_size);

  KVStorage& storage() { return *storage_; }

  // Computes and commits the next tokens of every sequence, `chunk` at a time.
  void extend(Executable& executable, std::size_t n_tokens, std::size_t chunk);

  // A step of n_tokens more of every sequence (one: it decodes), which leaves no trace in the
  // cache's bookkeeping. Wanted are the last rows of each, or all of them. Valid until the next
  // call.
  StepInputs next(std::size_t n_tokens, bool all_rows);

 private:
  using Phase = StepPhase;
  StepInputs assemble(std::span<const SequenceId> sequences, std::size_t n_tokens, Phase phase,
                      bool all_rows);

  const std::size_t vocab_size_;
  std::unique_ptr<KVStorage> storage_;
  std::unique_ptr<KVCache> cache_;
  StepAssembler assembler_;
  std::vector<SequenceId> sequences_;
  std::vector<std::int32_t> starts_;
  std::vector<TokenId> tokens_;
  std::vector<std::int32_t> selected_;
};

// What a query at a position sees.
inline GroupSpec mask_of(const Options& options) { return {options.window, options.sinks}; }
inline bool is_visible(const GroupSpec& mask, std::size_t query, std::size_t position) {
  return position <= query &&
         (mask.window == 0 || query - position < mask.window || position < mask.sinks);
}
// How many tokens the query at this position sees.
std::size_t n_visible(const GroupSpec& mask, std::size_t query);

std::uint64_t hash_of(std::span<const float> values);

}  // namespace quarrel::bench
