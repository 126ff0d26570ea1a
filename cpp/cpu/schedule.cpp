#include "cpu/schedule.h"

#include <algorithm>
#include <optional>
#include <string_view>
#include <utility>
#include <variant>

#include "cpu/packing/packed_format.h"

namespace quarrel::cpu {
namespace {

StageKind kind_of(const Op& op) {
  if (std::holds_alternative<LinearOp>(op.kind)) return StageKind::Linear;
  if (std::holds_alternative<AttentionOp>(op.kind)) return StageKind::Attention;
  if (std::holds_alternative<SelectRowsOp>(op.kind)) return StageKind::SelectRows;
  return StageKind::Rows;
}

RowSpace rows_of(const Program& program, const Op& op) {
  return program.value(op.output ? *op.output : op.inputs.front()).rows;
}

// Which ops each op waits for: those that make its inputs, and for attention what its layer's
// cache gets in this step.
std::vector<std::vector<std::size_t>> dependencies(const Program& program) {
  std::vector<std::size_t> maker(program.values.size());
  std::vector<std::size_t> writer(program.kv_layers.size());
  std::vector<std::vector<std::size_t>> all;
  for (std::size_t i = 0; i < program.ops.size(); ++i) {
    const Op& op = program.ops[i];
    auto& mine = all.emplace_back();
    for (const ValueId in : op.inputs) mine.push_back(maker[static_cast<std::size_t>(in.index)]);
    if (const auto* attention = std::get_if<AttentionOp>(&op.kind))
      mine.push_back(writer[attention->layer]);
    if (const auto* write = std::get_if<KVWriteOp>(&op.kind)) writer[write->layer] = i;
    if (op.output) maker[static_cast<std::size_t>(op.output->index)] = i;
  }
  return all;
}

class Scheduler {
 public:
  explicit Scheduler(const Program& program)
      : program_(program), dependencies_(dependencies(program)), done_(program.ops.size(), false) {}

  Schedule run() {
    while (order_.size() < program_.ops.size()) {
      const Stage first = next_stage();
      if (first.kind == StageKind::Linear) quantize_inputs(first);
      emit(first);
    }
    Program ordered = program_;
    for (std::size_t i = 0; i < order_.size(); ++i) ordered.ops[i] = program_.ops[order_[i]];
    result_.program = std::make_shared<const Program>(std::move(ordered));
    renumber();
    return std::move(result_);
  }

 private:
  bool is_ready(std::size_t op) const {
    return !done_[op] &&
           std::ranges::all_of(dependencies_[op], [&](std::size_t other) { return done_[other]; });
  }

  // Row-wise work first, so that as much as possible is ready for the stage after it.
  Stage next_stage() {
    for (const StageKind kind :
         {StageKind::Rows, StageKind::Linear, StageKind::Attention, StageKind::SelectRows}) {
      for (std::size_t i = 0; i < program_.ops.size(); ++i)
        if (is_ready(i) && kind_of(program_.ops[i]) == kind) return collect(i);
    }
    return {};
  }

  Stage collect(std::size_t first) {
    const StageKind kind = kind_of(program_.ops[first]);
    Stage stage{kind, rows_of(program_, program_.ops[first]), {}, {}, {}};
    for (std::size_t i = first; i < program_.ops.size(); ++i) {
      const Op& op = program_.ops[i];
      if (!is_ready(i) || kind_of(op) != kind || rows_of(program_, op) != stage.rows) continue;
      stage.ops.push_back(i);
      if (kind == StageKind::Rows) done_[i] = true;  // the next op of the row may follow
      if (kind == StageKind::Attention || kind == StageKind::SelectRows) break;
    }
    for (const std::size_t op : stage.ops) done_[op] = true;
    return stage;
  }

  void quantize_inputs(const Stage& linear) {
    std::vector<Quantization> wanted;
    for (const std::size_t i : linear.ops) {
      const Op& op = program_.ops[i];
      if (!is_quantized(program_.weight(std::get<LinearOp>(op.kind).weight).dtype)) {
        slots_.push_back(0);
        continue;
      }
      const ValueId in = op.inputs.front();
      const auto same = [&](const Quantization& q) { return q.value.index == in.index; };
      auto found = std::ranges::find_if(wanted, same);
      if (found == wanted.end()) found = wanted.insert(wanted.end(), {in, wanted.size()});
      slots_.push_back(found->slot);
      auto& widths = result_.slot_widths;
      if (widths.size() <= found->slot) widths.resize(found->slot + 1, 0);
      widths[found->slot] = std::max(widths[found->slot], program_.value(in).width);
    }
    if (wanted.empty()) return;
    auto& stages = result_.stages;
    if (stages.empty() || stages.back().kind != StageKind::Rows ||
        stages.back().rows != linear.rows)
      stages.push_back({StageKind::Rows, linear.rows, {}, {}, {}});
    stages.back().quantizations = std::move(wanted);
  }

  void emit(Stage stage) {
    order_.insert(order_.end(), stage.ops.begin(), stage.ops.end());
    stage.slots = std::exchange(slots_, {});
    result_.stages.push_back(std::move(stage));
  }

  // From places in the given program to places in the ordered one.
  void renumber() {
    std::size_t next = 0;
    for (std::size_t s = 0; s < result_.stages.size(); ++s)
      for (std::size_t& op : result_.stages[s].ops) {
        op = next++;
        result_.stage_of_op.push_back(s);
      }
  }

  const Program& program_;
  std::vector<std::vector<std::size_t>> dependencies_;
  std::vector<bool> done_;
  std::vector<std::size_t> order_;
  std::vector<std::size_t> slots_;
  Schedule result_;
};

// "blk.7.attn_q.weight" is "attn_q": the layers of a model share a line of a profile.
std::string role_of(const std::string& weight_name) {
  std::string_view name = weight_name;
  if (name.starts_with("blk.")) name.remove_prefix(std::min(name.find('.', 4) + 1, name.size()));
  if (name.ends_with(".weight")) name.remove_suffix(7);
  return std::string(name);
}

std::string stage_name(const Program& program, const Stage& stage) {
  std::vector<std::string> parts;
  for (const std::size_t i : stage.ops) {
    const auto* linear = std::get_if<LinearOp>(&program.ops[i].kind);
    std::string part = linear != nullptr ? role_of(program.weight(linear->weight).name)
                                         : std::string(op_stem(program.ops[i].kind));
    if (std::ranges::find(parts, part) == parts.end()) parts.push_back(std::move(part));
  }
  std::string name;
  for (const std::string& part : parts) name += (name.empty() ? "" : ",") + part;
  if (stage.ops.empty()) return "quantize";
  return stage.kind == StageKind::Linear ? "linear(" + name + ")" : name;
}

}  // namespace

Schedule schedule(const Program& program) { return Scheduler(program).run(); }

std::vector<std::string> stage_names(const Schedule& schedule) {
  std::vector<std::string> names;
  for (const Stage& stage : schedule.stages) names.push_back(stage_name(*schedule.program, stage));
  return names;
}

}  // namespace quarrel::cpu
