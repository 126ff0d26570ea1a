// Turns "these tokens of these sequences" into the flat arrays a device runs.
#pragma once

#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "cache/kv_cache.h"
#include "program/device.h"
#include "program/step_memory.h"

namespace quarrel {

// The part of a step that the scheduler decides.
struct StepRequest {
  std::span<const SequenceId> sequences;          // [n_seqs]
  std::span<const std::int32_t> query_start_loc;  // [n_seqs + 1]
  std::span<const TokenId> token_ids;             // [n_tokens], follow the committed ones
  std::span<const std::int32_t> selected_rows;    // rows of this step whose logits are wanted
  std::size_t n_decodes = 0;                      // see StepInputs; their selected rows come first
  std::size_t n_best = 0;                         // see StepInputs
};

// Keeps its arrays between steps, so a steady state allocates nothing here.
class StepAssembler {
 public:
  // masks: what attention may see in each layer group, or empty: what the cache keeps.
  explicit StepAssembler(std::size_t vocab_size, std::vector<GroupSpec> masks = {})
      : vocab_size_(vocab_size), masks_(std::move(masks)) {}

  // Checks the request (InvalidArgument) and fills positions, slots and block tables from the
  // cache's views. Slots must have been reserved. The result points into `memory` and this object.
  StepInputs assemble(const StepRequest& request, const KVCache& cache, StepMemory& memory);
  StepInputs assemble(const StepRequest& request, const KVCache& cache) {
    return assemble(request, cache, own_memory_);
  }

 private:
  void check(const StepRequest& request) const;
  static void check_decodes(const StepRequest& request);
  // Takes memory for the arrays of a step of the sequences in views_.
  void begin(const StepRequest& request, const KVCache& cache, StepMemory& memory);
  void fill_slots(std::size_t group, const StepRequest& request, std::size_t block_size,
                  std::span<std::int32_t> slots) const;
  void fill_tables(std::size_t group, std::span<std::int32_t> tables) const;

  const std::size_t vocab_size_;
  const std::vector<GroupSpec> masks_;
  std::vector<SequenceView> views_;
  std::vector<std::int32_t> context_lens_;
  std::vector<std::size_t> max_blocks_;  // [n_groups]
  std::vector<GroupInputs> group_inputs_;
  std::span<std::int32_t> positions_;
  HostStepMemory own_memory_;
};

}  // namespace quarrel
