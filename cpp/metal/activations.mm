#import "metal/activations.h"

#include <algorithm>

namespace quarrel::metal {
namespace {

// A capacity of whole 16 rows keeps every value aligned to 64 bytes.
std::size_t round_up(std::size_t n) { return (n + 15) / 16 * 16; }

std::size_t token_bytes(const MemoryPlan& plan, const StepLimits& limits) {
  return plan.token_width * round_up(limits.max_tokens) * sizeof(float);
}

std::size_t selected_bytes(const MemoryPlan& plan, std::size_t n_rows) {
  return plan.selected_width * round_up(n_rows) * sizeof(float);
}

// A step selects no more rows than it has tokens.
std::size_t planned_selected_bytes(const MemoryPlan& plan, const StepLimits& limits) {
  return selected_bytes(plan, std::min(limits.max_selected_rows, limits.max_tokens));
}

}  // namespace

Activations::Activations(const Program& program, const MemoryPlan& plan, const StepLimits& limits,
                         const Context& context, const std::shared_ptr<MemoryLedger>& ledger)
    : program_(program),
      plan_(plan),
      max_tokens_(round_up(limits.max_tokens)),
      tokens_(context.allocate(*ledger, MemoryKind::Scratch, token_bytes(plan, limits))),
      selected_(context, ledger, planned_selected_bytes(plan, limits)) {}

std::size_t Activations::planned_bytes(const MemoryPlan& plan, const StepLimits& limits) {
  return token_bytes(plan, limits) + planned_selected_bytes(plan, limits);
}

void Activations::require_selected(std::size_t n_rows) {
  n_selected_ = round_up(n_rows);
  selected_.require(selected_bytes(plan_, n_rows));
}

BufferRange Activations::rows(ValueId id, std::size_t first, std::size_t n) const {
  const ValueInfo& info = program_.value(id);
  const bool selected = info.rows == RowSpace::Selected;
  const std::size_t start =
      plan_.offsets[static_cast<std::size_t>(id.index)] * (selected ? n_selected_ : max_tokens_) +
      first * info.width;
  return (selected ? selected_.get() : tokens_)
      .range(start * sizeof(float), n * info.width * sizeof(float));
}

const float* Activations::data(ValueId id) const {
  const BufferRange range = rows(id, 0, 0);
  return reinterpret_cast<const float*>(static_cast<const std::byte*>(range.buffer.contents) +
                                        range.offset);
}

}  // namespace quarrel::metal
