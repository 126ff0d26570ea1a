#include "program/memory_planner.h"

#include <algorithm>
#include <optional>
#include <variant>

namespace quarrel {
namespace {

constexpr std::size_t kNever = static_cast<std::size_t>(-1);

struct Range {
  std::size_t offset;
  std::size_t width;
};

std::vector<std::size_t> last_uses(const Program& program) {
  std::vector<std::size_t> last(program.values.size(), 0);
  for (std::size_t i = 0; i < program.ops.size(); ++i)
    for (const ValueId in : program.ops[i].inputs) last[static_cast<std::size_t>(in.index)] = i;
  last[static_cast<std::size_t>(program.logits.index)] = kNever;
  return last;
}

bool is_elementwise(const OpKind& kind) {
  return std::holds_alternative<RopeOp>(kind) || std::holds_alternative<SiluMulOp>(kind) ||
         std::holds_alternative<GeluMulOp>(kind) || std::holds_alternative<AddOp>(kind) ||
         std::holds_alternative<ScaleOp>(kind) || std::holds_alternative<SoftcapOp>(kind);
}

// The live ranges of one arena, sorted by offset.
class Arena {
 public:
  std::size_t allocate(std::size_t width) {
    std::size_t offset = 0;
    auto next = live_.begin();
    for (; next != live_.end() && next->offset - offset < width; ++next)
      offset = next->offset + next->width;
    live_.insert(next, {offset, width});
    size_ = std::max(size_, offset + width);
    return offset;
  }
  void free(std::size_t offset) { live_.erase(std::ranges::find(live_, offset, &Range::offset)); }
  std::size_t size() const { return size_; }

 private:
  std::vector<Range> live_;
  std::size_t size_ = 0;
};

std::optional<ValueId> reusable_input(const Program& program, const Op& op, std::size_t at,
                                      const std::vector<std::size_t>& last) {
  if (!is_elementwise(op.kind)) return std::nullopt;
  for (const ValueId in : op.inputs)
    if (last[static_cast<std::size_t>(in.index)] == at &&
        program.value(in).width == program.value(*op.output).width)
      return in;
  return std::nullopt;
}

}  // namespace

MemoryPlan plan_memory(const Program& program, std::span<const std::size_t> stage_of_op) {
  MemoryPlan plan;
  plan.offsets.resize(program.values.size());
  const auto last = last_uses(program);
  Arena tokens;
  Arena selected;
  auto arena = [&](ValueId id) -> Arena& {
    return program.value(id).rows == RowSpace::Tokens ? tokens : selected;
  };
  auto offset = [&](ValueId id) -> std::size_t& {
    return plan.offsets[static_cast<std::size_t>(id.index)];
  };
  auto ends_stage = [&](std::size_t i) {
    return i + 1 == program.ops.size() || stage_of_op.empty() ||
           stage_of_op[i] != stage_of_op[i + 1];
  };

  std::vector<ValueId> dying;  // in this stage
  for (std::size_t i = 0; i < program.ops.size(); ++i) {
    const Op& op = program.ops[i];
    std::optional<ValueId> taken;
    if (op.output) {
      taken = reusable_input(program, op, i, last);
      offset(*op.output) =
          taken ? offset(*taken) : arena(*op.output).allocate(program.value(*op.output).width);
    }
    for (std::size_t k = 0; k < op.inputs.size(); ++k) {
      const ValueId in = op.inputs[k];
      const auto same = [&](ValueId other) { return other.index == in.index; };
      const bool repeated = std::any_of(op.inputs.begin(), op.inputs.begin() + k, same);
      const bool dies = last[static_cast<std::size_t>(in.index)] == i && !repeated;
      if (dies && !(taken && same(*taken))) dying.push_back(in);
    }
    if (ends_stage(i)) {
      for (const ValueId in : dying) arena(in).free(offset(in));
      dying.clear();
    }
  }
  plan.token_width = tokens.size();
  plan.selected_width = selected.size();
  return plan;
}

}  // namespace quarrel
