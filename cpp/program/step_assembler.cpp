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

void StepAssembler::fill_slots(std::size_t g, const StepRequest& r, std::size_t block_size,
                               std::span<std::int32_t> slots) const {
  for (std::size_t s = 0; s < views_.size(); ++s) {
    for (auto row = static_cast<std::size_t>(r.query_start_loc[s]);
         row < static_cast<std::size_t>(r.query_start_loc[s + 1]); ++row) {
      const LogicalPosition position{static_cast<std::size_t>(positions_[row])};
      const PhysicalSlot slot = slot_of(views_[s].block_tables[g], block_size, position);
      if (slot == kNoSlot) fail("every token to have a slot");
      slots[row] = static_cast<std::int32_t>(slot);
    }
  }
}

void StepAssembler::fill_tables(std::size_t g, std::span<std::int32_t> tables) const {
  for (std::size_t s = 0; s < views_.size(); ++s) {
    const auto row = tables.subspan(s * max_blocks_[g], max_blocks_[g]);
    const auto rest = std::ranges::copy(views_[s].block_tables[g], row.begin()).out;
    std::fill(rest, row.end(), kNoBlock);
  }
}

void StepAssembler::begin(const StepRequest& r, const KVCache& cache, StepMemory& memory) {
  max_blocks_.assign(cache.n_groups(), 0);
  for (const SequenceView& view : views_)
    for (std::size_t g = 0; g < max_blocks_.size(); ++g)
      max_blocks_[g] = std::max(max_blocks_[g], view.block_tables[g].size());
  memory.begin({r.token_ids.size(), views_.size(), r.selected_rows.size(), max_blocks_});
}

StepInputs StepAssembler::assemble(const StepRequest& r, const KVCache& cache, StepMemory& memory) {
  check(r);
  views_.clear();
  for (const SequenceId sequence : r.sequences) views_.push_back(cache.view(sequence));
  begin(r, cache, memory);
  context_lens_.clear();
  positions_ = memory.take(r.token_ids.size());
  for (std::size_t s = 0; s < views_.size(); ++s) {
    auto position = static_cast<std::int32_t>(views_[s].n_tokens);
    for (std::int32_t row = r.query_start_loc[s]; row < r.query_start_loc[s + 1]; ++row)
      positions_[static_cast<std::size_t>(row)] = position++;
    context_lens_.push_back(position);
  }
  group_inputs_.resize(max_blocks_.size());
  for (std::size_t g = 0; g < max_blocks_.size(); ++g) {
    const auto slots = memory.take(r.token_ids.size());
    fill_slots(g, r, cache.block_size(), slots);
    const auto tables = memory.take(views_.size() * max_blocks_[g]);
    fill_tables(g, tables);
    const GroupSpec spec = masks_.empty() ? cache.group_spec(g) : masks_[g];
    group_inputs_[g] = {slots, tables, max_blocks_[g], spec.window, spec.sinks};
  }
  return {r.token_ids,     positions_,    r.query_start_loc, context_lens_,
          r.selected_rows, group_inputs_, r.n_decodes,       r.n_best};
}

}  // namespace quarrel
