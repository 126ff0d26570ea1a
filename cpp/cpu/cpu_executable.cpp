#include "cpu/cpu_executable.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>
#include <string>
#include <utility>
#include <variant>

#include "core/error.h"
#include "cpu/cpu_step.h"
#include "cpu/packing/packed_format.h"

namespace quarrel::cpu {
namespace {

constexpr std::size_t kRowsPerItem = 8;      // of a Rows stage, at most
constexpr std::size_t kItemsPerThread = 4;   // of a Rows stage, to even out its end
constexpr std::size_t kTokensPerItem = 128;  // of a matrix product: their inputs stay in cache

std::size_t round_up(std::size_t n, std::size_t to) { return (n + to - 1) / to * to; }

// A step selects no more rows than it has tokens.
std::size_t selected_capacity(const StepLimits& limits) {
  return round_up(std::min(limits.max_selected_rows, limits.max_tokens), 16);
}

std::size_t thread_scratch_bytes(const Program& program) {
  std::size_t n = 0;
  for (const auto& weight : program.weights) n = std::max(n, linear_scratch_bytes(weight.n_cols));
  for (const auto& layer : program.kv_layers)
    n = std::max(n, attention_scratch(layer.head_dim) * sizeof(float));
  return round_up(n, 64);  // parts stay aligned to cache lines
}

std::size_t rope_floats(const Program& program, std::size_t max_tokens) {
  std::size_t n = 0;
  for (const auto& rope : program.ropes) n += rope.inverse_frequencies.size() * 2 * max_tokens;
  return n;
}

std::size_t most_kv_heads(const Program& program) {
  std::size_t n = 0;
  for (const auto& layer : program.kv_layers) n = std::max(n, layer.n_kv_heads);
  return n;
}

}  // namespace

std::size_t ScratchSizes::total() const {
  return std::accumulate(
      quantized.begin(), quantized.end(),
      token_arena + selected_arena + threads + partials + attention_work + rope_tables);
}

ScratchSizes scratch_sizes(const Schedule& order, const MemoryPlan& plan, const StepLimits& limits,
                           int n_threads) {
  const Program& program = *order.program;
  const std::size_t max_tokens = round_up(limits.max_tokens, 16);
  const std::size_t per_thread = thread_scratch_bytes(program);
  ScratchSizes sizes{
      plan.token_width * max_tokens * sizeof(float),
      plan.selected_width * selected_capacity(limits) * sizeof(float),
      per_thread,
      per_thread * static_cast<std::size_t>(n_threads),
      partial_bytes(program, limits.max_context_tokens, n_threads),
      // At worst every token is a sequence of its own.
      max_tokens * most_kv_heads(program) * sizeof(AttentionWork),
      rope_floats(program, max_tokens) * sizeof(float),
      {},
  };
  for (const std::size_t width : order.slot_widths)
    sizes.quantized.push_back(quantized_row_bytes(width) * max_tokens);
  return sizes;
}

CpuExecutable::CpuExecutable(std::shared_ptr<const Program> program, const StepLimits& limits,
                             const KernelTable& kernels, std::shared_ptr<ThreadPool> pool,
                             std::shared_ptr<MemoryLedger> ledger)
    : schedule_(schedule(*program)),
      program_(schedule_.program),
      kernels_(kernels),
      pool_(std::move(pool)),
      ledger_(std::move(ledger)),
      plan_(plan_memory(*program_, schedule_.stage_of_op)),
      max_tokens_(round_up(limits.max_tokens, 16)),
      max_selected_(selected_capacity(limits)),
      sizes_(scratch_sizes(schedule_, plan_, limits, pool_->n_threads())),
      weights_(*program_, *pool_, ledger_),
      token_arena_(*ledger_, MemoryKind::Scratch, sizes_.token_arena),
      selected_arena_(*ledger_, MemoryKind::Scratch, sizes_.selected_arena),
      scratch_(*ledger_, MemoryKind::Scratch, sizes_.threads),
      attention_work_charge_(ledger_->charge(MemoryKind::Scratch, sizes_.attention_work)),
      partials_(*ledger_, MemoryKind::Scratch, sizes_.partials),
      rope_memory_(*ledger_, MemoryKind::Scratch, sizes_.rope_tables) {
  attention_work_.reserve(sizes_.attention_work / sizeof(AttentionWork));
  quantized_.reserve(sizes_.quantized.size());
  for (const std::size_t bytes : sizes_.quantized)
    quantized_.emplace_back(*ledger_, MemoryKind::Scratch, bytes);
  float* next = rope_memory_.as<float>();
  for (const auto& rope : program_->ropes) {
    rope_tables_.push_back(next);
    next += rope.inverse_frequencies.size() * 2 * max_tokens_;
  }
}

float* CpuExecutable::values(ValueId id) {
  const std::size_t offset = plan_.offsets[static_cast<std::size_t>(id.index)];
  return program_->value(id).rows == RowSpace::Tokens
             ? token_arena_.as<float>() + offset * max_tokens_
             : selected_ + offset * selected_rows_;
}

std::size_t CpuExecutable::n_rows(RowSpace rows, const Step& step) const {
  return rows == RowSpace::Tokens ? step.inputs.n_tokens() : step.inputs.selected_rows.size();
}

std::byte* CpuExecutable::scratch(int thread) {
  return scratch_.data() + sizes_.per_thread * static_cast<std::size_t>(thread);
}

// The logits of a large vocabulary are big and few rows are wanted when generating: more of them
// have an arena of their own, until shrink().
void CpuExecutable::select_arena(std::size_t n_rows) {
  selected_ = selected_arena_.as<float>();
  selected_rows_ = max_selected_;
  if (n_rows <= max_selected_) return;
  if (n_rows > large_rows_) {
    shrink();  // first: the cap need not hold both
    const std::size_t capacity = round_up(n_rows, 16);
    large_arena_ =
        Buffer(*ledger_, MemoryKind::Scratch, plan_.selected_width * capacity * sizeof(float));
    large_rows_ = capacity;
  }
  selected_ = large_arena_.as<float>();
  selected_rows_ = large_rows_;
}

void CpuExecutable::shrink() {
  large_arena_ = Buffer();
  large_rows_ = 0;
}

void CpuExecutable::fill_rope_tables(std::span<const std::int32_t> positions) {
  for (std::size_t i = 0; i < rope_tables_.size(); ++i) {
    const auto& frequencies = program_->ropes[i].inverse_frequencies;
    const std::size_t n = frequencies.size();
    pool_->parallel_for(positions.size(), [&](std::size_t token, int) {
      float* cosines = rope_tables_[i] + token * 2 * n;
      for (std::size_t k = 0; k < n; ++k) {
        const double angle = static_cast<double>(positions[token]) * frequencies[k];
        cosines[k] = static_cast<float>(std::cos(angle));
        cosines[n + k] = static_cast<float>(std::sin(angle));
      }
    });
  }
}

std::span<const float> CpuExecutable::run(const StepInputs& inputs, KVStorage& storage) {
  if (inputs.n_tokens() > max_tokens_)
    throw InvalidArgument("[step] expected at most " + std::to_string(max_tokens_) +
                          " tokens, got " + std::to_string(inputs.n_tokens()));
  const ScopedSpan whole(trace_.log.get(), 0, trace_.step);
  select_arena(inputs.selected_rows.size());
  pool_->name_loops(trace_.rope_tables);
  fill_rope_tables(inputs.positions);
  const Step step{inputs, static_cast<CpuKVStorage&>(storage)};
  for (std::size_t i = 0; i < schedule_.stages.size(); ++i) {
    const StepProfile::Span span(profile_, inputs.phase(), i);
    if (trace_.log) pool_->name_loops(trace_.stages[i]);
    run_stage(i, step);
  }
  return {values(program_->logits), inputs.selected_rows.size() * width(program_->logits)};
}

void CpuExecutable::run_stage(std::size_t index, const Step& step) {
  const Stage& stage = schedule_.stages[index];
  switch (stage.kind) {
    case StageKind::Rows:
      return run_rows(stage, step);
    case StageKind::Linear:
      return run_linear(stage, step);
    case StageKind::Attention:
      return run_attention(stage, step);
    case StageKind::SelectRows:
      return run_select_rows(stage, step);
  }
}

void CpuExecutable::set_profiling(bool on) {
  if (on) {
    profile_.enable(stage_names(schedule_));
  } else {
    profile_.disable();
  }
}

void CpuExecutable::set_trace(std::shared_ptr<SpanLog> log) {
  trace_ = {};
  if (log) {
    trace_.step = log->intern("step");
    trace_.rope_tables = log->intern("rope_tables");
    for (const std::string& name : stage_names(schedule_))
      trace_.stages.push_back(log->intern(name));
  }
  profile_.set_trace(log, trace_.stages);
  pool_->set_trace(log);
  trace_.log = std::move(log);
}

std::vector<std::string> CpuExecutable::track_names() const {
  std::vector<std::string> names{"engine"};
  for (int i = 1; i < pool_->n_threads(); ++i) names.push_back("worker " + std::to_string(i));
  return names;
}

// A thread takes its rows through every op while they are in its cache.
void CpuExecutable::run_rows(const Stage& stage, const Step& step) {
  const std::size_t total = n_rows(stage.rows, step);
  const std::size_t wanted = static_cast<std::size_t>(pool_->n_threads()) * kItemsPerThread;
  const std::size_t per_item = std::clamp<std::size_t>(total / wanted, 1, kRowsPerItem);
  pool_->parallel_for((total + per_item - 1) / per_item, [&](std::size_t item, int) {
    const RowRange rows{item * per_item, std::min(per_item, total - item * per_item)};
    for (const std::size_t i : stage.ops) {
      const Op& op = program_->ops[i];
      std::visit([&](const auto& kind) { apply(kind, op, rows, step); }, op.kind);
    }
    for (const Quantization& quantization : stage.quantizations) quantize(quantization, rows);
  });
}

LinearArgs CpuExecutable::linear_args(const Op& op, std::size_t slot) {
  const auto& linear = std::get<LinearOp>(op.kind);
  const Weight& weight = program_->weight(linear.weight);
  const float* bias = linear.bias ? weights_.floats(*linear.bias) : nullptr;
  return {values(op.inputs[0]),
          is_quantized(weight.dtype) ? quantized_[slot].data() : nullptr,
          values(*op.output),
          bias,
          weight.n_cols,
          weight.n_rows,
          weights_.tiles(linear.weight),
          weight.dtype};
}

// Items are tiles of outputs for some tokens: the tiles of one matrix after those of the other.
void CpuExecutable::run_linear(const Stage& stage, const Step& step) {
  const std::size_t n_tokens = n_rows(stage.rows, step);
  const std::size_t n_chunks = (n_tokens + kTokensPerItem - 1) / kTokensPerItem;
  std::size_t n_tiles = 0;
  linear_work_.clear();
  for (std::size_t k = 0; k < stage.ops.size(); ++k) {
    linear_work_.push_back(linear_args(program_->ops[stage.ops[k]], stage.slots[k]));
    n_tiles += packed_tiles(linear_work_.back().n_out);
  }
  pool_->parallel_for(n_chunks * n_tiles, [&](std::size_t item, int thread) {
    const std::size_t token = item / n_tiles * kTokensPerItem;
    std::size_t tile = item % n_tiles;
    const LinearArgs* args = linear_work_.data();
    for (; tile >= packed_tiles(args->n_out); ++args) tile -= packed_tiles(args->n_out);
    kernels_.linear(*args, {tile, token, std::min(kTokensPerItem, n_tokens - token)},
                    scratch(thread));
  });
}

void CpuExecutable::run_select_rows(const Stage& stage, const Step& step) {
  const Op& io = program_->ops[stage.ops.front()];
  const float* x = values(io.inputs[0]);
  float* y = values(*io.output);
  const std::size_t n = width(*io.output);
  for (const std::int32_t row : step.inputs.selected_rows) {
    std::memcpy(y, x + static_cast<std::size_t>(row) * n, n * sizeof(float));
    y += n;
  }
}

}  // namespace quarrel::cpu
