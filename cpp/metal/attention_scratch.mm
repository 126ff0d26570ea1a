#import "metal/attention_scratch.h"

#include <algorithm>
#include <variant>

#include "shaders/params.h"

namespace quarrel::metal {
namespace {

std::size_t partial_bytes(std::size_t n_rows, std::size_t head_dim) {
  return n_rows * (head_dim + 2) * sizeof(float);
}

// Partitions are as long as attention_partition() says, a round at least: K and V may have any
// type. One of them may begin before the window.
std::size_t bytes_for(const Program& program, std::size_t n_decodes, std::size_t context) {
  const std::size_t n_slots = context / kAttentionRound + 1;
  std::size_t most = 0;
  for (const Op& op : program.ops)
    if (const auto* attention = std::get_if<AttentionOp>(&op.kind))
      most = std::max(most, partial_bytes(n_decodes * attention->n_heads * n_slots,
                                          program.kv_layers[attention->layer].head_dim));
  return most;
}

}  // namespace

AttentionScratch::AttentionScratch(const Program& program, const StepLimits& limits,
                                   const Context& context,
                                   const std::shared_ptr<MemoryLedger>& ledger)
    : program_(program), memory_(context, ledger, planned_bytes(program, limits)) {}

std::size_t AttentionScratch::planned_bytes(const Program& program, const StepLimits& limits) {
  return bytes_for(program, std::min(limits.max_selected_rows, limits.max_tokens),
                   limits.max_context_tokens);
}

AttentionScratch::Partials AttentionScratch::partials(std::size_t n_rows,
                                                      std::size_t head_dim) const {
  const std::size_t value_bytes = n_rows * head_dim * sizeof(float);
  return {memory_.get().range(0, value_bytes),
          memory_.get().range(value_bytes, n_rows * 2 * sizeof(float))};
}

void AttentionScratch::require(const StepInputs& in) {
  std::int32_t longest = 0;
  for (std::size_t s = 0; s < in.n_decodes; ++s) longest = std::max(longest, in.context_lens[s]);
  memory_.require(bytes_for(program_, in.n_decodes, static_cast<std::size_t>(longest)));
}

}  // namespace quarrel::metal
