#include "program/step_assembler.h"

#include <algorithm>
#include <string>

#include "core/error.h"

namespace quarrel {
namespace {

[[noreturn]] void fail(const std::string& expected) {
  throw InvalidArgument("[step] expected " + expected);
}

}  // namespace

// Messages are put together only when they are needed: this runs in every step.
void StepAssembler::check(const StepRequest& r) const {
  const auto n_tokens = static_cast<std::int32_t>(r.token_ids.size());
  if (r.query_start_loc.size() != r.sequences.size() + 1) fail("n_seqs + 1 query starts");
  if (r.query_start_loc.front() != 0 || r.query_start_loc.back() != n_tokens)
    fail("query starts to span all tokens");
  for (std::size_t i = 0; i < r.sequences.size(); ++i)
    if (r.query_start_loc[i] >= r.query_start_loc[i + 1]) fail("every sequence to have a token");
  for (const TokenId id : r.token_ids)
    if (id < 0 || static_cast<std::size_t>(id) >= vocab_size_)
      fail("token ids below " + std::to_string(vocab_size_) + ", got " + std::to_string(id));
  for (const std::int32_t row : r.selected_rows)
    if (row < 0 || row >= n_tokens) fail("selected rows below " + std::to_string(n_tokens));
  check_decodes(r);
}

void StepAssembler::check_decodes(const StepRequest& r) {
  if (r.n_decodes > r.sequences.size()) fail("no more decodes than sequences");
  const auto n = static_cast<std::int32_t>(r.n_decodes);
  if (r.query_start_loc[r.n_decodes] != n) fail("sequences that decode to have one token");
  const auto is_decode = [n](std::int32_t row) { return row < n; };
  if (!std::ranges::is_partitioned(r.selected_rows, is_decode))
    fail("selected rows of sequences that decode before those of others");
}

void StepAssembler::fill_group(std::size_t g, const StepRequest& r, const KVCache& cache) {
  Group& group = groups_[g];
  std::size_t max_blocks = 0;
  for (const auto& view : views_) max_blocks = std::max(max_blocks, view.block_tables[g].size());
  group.slot_mapping.resize(r.token_ids.size());
  group.block_tables.assign(views_.size() * max_blocks, kNoBlock);

  const std::size_t block_size = cache.block_size();
  for (std::size_t s = 0; s < views_.size(); ++s) {
    const auto table = views_[s].block_tables[g];
    std::ranges::copy(table,
                      group.block_tables.begin() + static_cast<std::ptrdiff_t>(s * max_blocks));
    for (auto row = static_cast<std::size_t>(r.query_start_loc[s]);
         row < static_cast<std::size_t>(r.query_start_loc[s + 1]); ++row) {
      const LogicalPosition position{static_cast<std::size_t>(positions_[row])};
      const PhysicalSlot slot = slot_of(table, block_size, position);
      if (slot == kNoSlot) fail("every token to have a slot");
      group.slot_mapping[row] = static_cast<std::int32_t>(slot);
    }
  }
  const GroupSpec spec = masks_.empty() ? cache.group_spec(g) : masks_[g];
  group_inputs_[g] = {group.slot_mapping, group.block_tables, max_blocks, spec.window, spec.sinks};
}

StepInputs StepAssembler::assemble(const StepRequest& r, const KVCache& cache) {
  check(r);
  views_.clear();
  context_lens_.clear();
  positions_.resize(r.token_ids.size());
  for (std::size_t s = 0; s < r.sequences.size(); ++s) {
    views_.push_back(cache.view(r.sequences[s]));
    auto position = static_cast<std::int32_t>(views_.back().n_tokens);
    for (std::int32_t row = r.query_start_loc[s]; row < r.query_start_loc[s + 1]; ++row)
      positions_[static_cast<std::size_t>(row)] = position++;
    context_lens_.push_back(position);
  }
  groups_.resize(cache.n_groups());
  group_inputs_.resize(cache.n_groups());
  for (std::size_t g = 0; g < groups_.size(); ++g) fill_group(g, r, cache);
  return {r.token_ids,     positions_,    r.query_start_loc, context_lens_,
          r.selected_rows, group_inputs_, r.n_decodes};
}

}  // namespace quarrel
