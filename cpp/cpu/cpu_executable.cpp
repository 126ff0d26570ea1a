#include "cpu/cpu_executable.h"

#include <algorithm>
#include <cmath>
#include <cstring>
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

std::size_t scratch_bytes(const Program& program) {
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

}  // namespace

CpuExecutable::CpuExecutable(std::shared_ptr<const Program> program, std::size_t max_tokens,
                             const KernelTable& kernels, std::shared_ptr<ThreadPool> pool,
                             std::shared_ptr<MemoryLedger> ledger)
    : schedule_(schedule(*program)),
      program_(schedule_.program),
      kernels_(kernels),
      pool_(std::move(pool)),
      ledger_(std::move(ledger)),
      plan_(plan_memory(*program_, schedule_.stage_of_op)),
      max_tokens_(round_up(max_tokens, 16)),
      scratch_bytes_(scratch_bytes(*program_)),
      weights_(*program_, *pool_, ledger_),
      token_arena_(*ledger_, MemoryKind::Scratch, plan_.token_width * max_tokens_ * sizeof(float)),
      scratch_(*ledger_, MemoryKind::Scratch,
               scratch_bytes_ * static_cast<std::size_t>(pool_->n_threads())),
      rope_memory_(*ledger_, MemoryKind::Scratch,
                   rope_floats(*program_, max_tokens_) * sizeof(float)) {
  for (const std::size_t width : schedule_.slot_widths)
    quantized_.emplace_back(*ledger_, MemoryKind::Scratch,
                            quantized_row_bytes(width) * max_tokens_);
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
             : selected_arena_.as<float>() + offset * max_selected_;
}

std::size_t CpuExecutable::n_rows(RowSpace rows, const Step& step) const {
  return rows == RowSpace::Tokens ? step.inputs.n_tokens() : step.inputs.selected_rows.size();
}

std::byte* CpuExecutable::scratch(int thread) {
  return scratch_.data() + scratch_bytes_ * static_cast<std::size_t>(thread);
}

// The logits of a large vocabulary are big and few rows are wanted when generating, so this arena
// follows the largest step seen.
void CpuExecutable::grow_selected(std::size_t n_rows) {
  if (n_rows <= max_selected_) return;
  const std::size_t capacity = round_up(n_rows, 16);
  selected_arena_ = Buffer();  // returned first: the cap need not hold both
  max_selected_ = 0;
  selected_arena_ =
      Buffer(*ledger_, MemoryKind::Scratch, plan_.selected_width * capacity * sizeof(float));
  max_selected_ = capacity;
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
  grow_selected(inputs.selected_rows.size());
  fill_rope_tables(inputs.positions);
  const Step step{inputs, static_cast<CpuKVStorage&>(storage)};
  for (const Stage& stage : schedule_.stages) {
    switch (stage.kind) {
      case StageKind::Rows:
        run_rows(stage, step);
        break;
      case StageKind::Linear:
        run_linear(stage, step);
        break;
      case StageKind::Attention:
        run_attention(stage, step);
        break;
      case StageKind::SelectRows:
        run_select_rows(stage, step);
        break;
    }
  }
  return {values(program_->logits), inputs.selected_rows.size() * width(program_->logits)};
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
  const Weight* bias = linear.bias ? &program_->weight(*linear.bias) : nullptr;
  return {values(op.inputs[0]),
          is_quantized(weight.dtype) ? quantized_[slot].data() : nullptr,
          values(*op.output),
          bias != nullptr ? reinterpret_cast<const float*>(bias->data.data()) : nullptr,
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
    kernels_.linear(*args, {tile, 1, token, std::min(kTokensPerItem, n_tokens - token)},
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
