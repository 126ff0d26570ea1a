#include "cpu/cpu_executable.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <string>
#include <utility>
#include <variant>

#include "core/error.h"
#include "gguf/dequantize.h"

namespace quarrel::cpu {
namespace {

constexpr std::size_t kRowsPerItem = 8;           // of cheap row-wise ops
constexpr std::size_t kElementsPerItem = 16384;   // of elementwise ops

std::size_t round_up(std::size_t n, std::size_t to) { return (n + to - 1) / to * to; }

std::size_t scratch_floats(const Program& program) {
  std::size_t n = kLinearScratch;
  for (const auto& layer : program.kv_layers)
    n = std::max(n, attention_scratch(layer.head_dim));
  return round_up(n, 16);  // parts stay aligned to cache lines
}

std::size_t rope_floats(const Program& program, std::size_t max_tokens) {
  std::size_t n = 0;
  for (const auto& rope : program.ropes) n += rope.inverse_frequencies.size() * 2 * max_tokens;
  return n;
}

}  // namespace

struct CpuExecutable::Step {
  const StepInputs& inputs;
  CpuKVStorage& storage;
};

CpuExecutable::CpuExecutable(std::shared_ptr<const Program> program, std::size_t max_tokens,
                             const KernelTable& kernels, std::shared_ptr<ThreadPool> pool,
                             std::shared_ptr<MemoryLedger> ledger)
    : program_(std::move(program)),
      kernels_(kernels),
      pool_(std::move(pool)),
      ledger_(std::move(ledger)),
      plan_(plan_memory(*program_)),
      max_tokens_(round_up(max_tokens, 16)),
      scratch_floats_(scratch_floats(*program_)),
      weights_(ledger_->charge(MemoryKind::Weights, program_->weight_bytes())),
      token_arena_(*ledger_, MemoryKind::Scratch,
                   plan_.token_width * max_tokens_ * sizeof(float)),
      scratch_(*ledger_, MemoryKind::Scratch,
               scratch_floats_ * static_cast<std::size_t>(pool_->n_threads()) * sizeof(float)),
      rope_memory_(*ledger_, MemoryKind::Scratch,
                   rope_floats(*program_, max_tokens_) * sizeof(float)) {
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

std::size_t CpuExecutable::n_rows(ValueId id, const Step& step) const {
  return program_->value(id).rows == RowSpace::Tokens ? step.inputs.n_tokens()
                                                      : step.inputs.selected_rows.size();
}

float* CpuExecutable::scratch(int thread) {
  return scratch_.as<float>() + scratch_floats_ * static_cast<std::size_t>(thread);
}

// The logits of a large vocabulary are big and few rows are wanted when generating, so this arena
// follows the largest step seen.
void CpuExecutable::grow_selected(std::size_t n_rows) {
  if (n_rows <= max_selected_) return;
  const std::size_t capacity = round_up(n_rows, 16);
  selected_arena_ = Buffer();  // returned first: the cap need not hold both
  max_selected_ = 0;
  selected_arena_ = Buffer(*ledger_, MemoryKind::Scratch,
                           plan_.selected_width * capacity * sizeof(float));
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
  for (const Op& op : program_->ops)
    std::visit([&](const auto& kind) { run_op(kind, op, step); }, op.kind);
  return {values(program_->logits), inputs.selected_rows.size() * width(program_->logits)};
}

template <class Body>
void CpuExecutable::for_rows(std::size_t n_rows, const Body& body) {
  const std::size_t n_items = (n_rows + kRowsPerItem - 1) / kRowsPerItem;
  pool_->parallel_for(n_items, [&](std::size_t item, int) {
    const std::size_t first = item * kRowsPerItem;
    body(first, std::min(kRowsPerItem, n_rows - first));
  });
}

template <class Body>
void CpuExecutable::for_elements(ValueId out, const Step& step, const Body& body) {
  const std::size_t n = n_rows(out, step) * width(out);
  const std::size_t n_items = (n + kElementsPerItem - 1) / kElementsPerItem;
  pool_->parallel_for(n_items, [&](std::size_t item, int) {
    const std::size_t first = item * kElementsPerItem;
    body(first, std::min(kElementsPerItem, n - first));
  });
}

void CpuExecutable::run_op(const EmbeddingOp& op, const Op& io, const Step& step) {
  const Weight& table = program_->weight(op.table);
  const std::size_t bytes = row_bytes(table.dtype, table.n_cols);
  float* y = values(*io.output);
  for_rows(step.inputs.n_tokens(), [&](std::size_t first, std::size_t n) {
    for (std::size_t t = first; t < first + n; ++t) {
      const auto id = static_cast<std::size_t>(step.inputs.token_ids[t]);
      float* row = y + t * table.n_cols;
      gguf::dequantize_row(table.dtype, table.data.data() + id * bytes, row, table.n_cols);
      if (op.scale != 1.0f) kernels_.scale(row, row, op.scale, table.n_cols);
    }
  });
}

void CpuExecutable::run_op(const RmsNormOp& op, const Op& io, const Step& step) {
  const Weight& weight = program_->weight(op.weight);
  const RmsNormArgs args{values(io.inputs[0]),
                         values(*io.output),
                         reinterpret_cast<const float*>(weight.data.data()),
                         weight.n_cols,
                         width(*io.output) / weight.n_cols,
                         op.eps};
  for_rows(n_rows(*io.output, step), [&](std::size_t first, std::size_t n) {
    kernels_.rms_norm(args, first, n);
  });
}

void CpuExecutable::run_op(const LinearOp& op, const Op& io, const Step& step) {
  const Weight& weight = program_->weight(op.weight);
  const DTypeTraits& dtype = traits(weight.dtype);
  const LinearArgs args{
      values(io.inputs[0]),
      values(*io.output),
      op.bias ? reinterpret_cast<const float*>(program_->weight(*op.bias).data.data()) : nullptr,
      n_rows(*io.output, step),
      weight.n_cols,
      weight.n_rows,
      weight.data.data(),
      row_bytes(weight.dtype, weight.n_cols),
      dtype.block_elements,
      dtype.block_bytes,
      weight.dtype,
      &gguf::dequantize_row};
  const std::size_t n_items = (weight.n_rows + kLinearRows - 1) / kLinearRows;
  pool_->parallel_for(n_items, [&](std::size_t item, int thread) {
    const std::size_t first = item * kLinearRows;
    kernels_.linear(args, first, std::min(kLinearRows, weight.n_rows - first), scratch(thread));
  });
}

void CpuExecutable::run_op(const RopeOp& op, const Op& io, const Step& step) {
  const auto index = static_cast<std::size_t>(op.table.index);
  const RopeTable& table = program_->ropes[index];
  const RopeArgs args{values(io.inputs[0]),
                      values(*io.output),
                      rope_tables_[index],
                      width(*io.output) / op.head_dim,
                      op.head_dim,
                      table.inverse_frequencies.size() * 2,
                      table.interleaved};
  for_rows(step.inputs.n_tokens(),
           [&](std::size_t first, std::size_t n) { kernels_.rope(args, first, n); });
}

void CpuExecutable::run_op(const KVWriteOp& op, const Op& io, const Step& step) {
  const std::size_t group = program_->group_of_layer[op.layer];
  const KVWriteArgs args{values(io.inputs[0]), values(io.inputs[1]),
                         step.inputs.groups[group].slot_mapping.data(),
                         step.storage.layer(op.layer)};
  for_rows(step.inputs.n_tokens(),
           [&](std::size_t first, std::size_t n) { kernels_.kv_write(args, first, n); });
}

void CpuExecutable::run_op(const AttentionOp& op, const Op& io, const Step& step) {
  const StepInputs& in = step.inputs;
  const GroupInputs& group = in.groups[program_->group_of_layer[op.layer]];
  const KVLayer& layer = program_->kv_layers[op.layer];
  const std::size_t per_item = kAttentionRows / (op.n_heads / layer.n_kv_heads);
  for (std::size_t s = 0; s < in.n_seqs(); ++s) {
    const auto first = static_cast<std::size_t>(in.query_start_loc[s]);
    const auto end = static_cast<std::size_t>(in.query_start_loc[s + 1]);
    const AttentionArgs args{values(io.inputs[0]),
                             values(*io.output),
                             step.storage.layer(op.layer),
                             group.block_tables.data() + s * group.max_blocks,
                             in.positions.data(),
                             op.n_heads,
                             layer.window,
                             op.scale,
                             op.softcap};
    const std::size_t n_tiles = (end - first + per_item - 1) / per_item;
    pool_->parallel_for(n_tiles * layer.n_kv_heads, [&](std::size_t item, int thread) {
      const std::size_t token = first + item / layer.n_kv_heads * per_item;
      kernels_.attention(args, item % layer.n_kv_heads, token, std::min(per_item, end - token),
                         scratch(thread));
    });
  }
}

void CpuExecutable::run_op(const SiluMulOp&, const Op& io, const Step& step) {
  const float* gate = values(io.inputs[0]);
  const float* up = values(io.inputs[1]);
  float* y = values(*io.output);
  for_elements(*io.output, step, [&](std::size_t first, std::size_t n) {
    kernels_.silu_mul(gate + first, up + first, y + first, n);
  });
}

void CpuExecutable::run_op(const GeluMulOp&, const Op& io, const Step& step) {
  const float* gate = values(io.inputs[0]);
  const float* up = values(io.inputs[1]);
  float* y = values(*io.output);
  for_elements(*io.output, step, [&](std::size_t first, std::size_t n) {
    kernels_.gelu_mul(gate + first, up + first, y + first, n);
  });
}

void CpuExecutable::run_op(const AddOp& op, const Op& io, const Step& step) {
  const float* a = values(io.inputs[0]);
  const float* b = values(io.inputs[1]);
  float* y = values(*io.output);
  for_elements(*io.output, step, [&](std::size_t first, std::size_t n) {
    kernels_.add(a + first, b + first, y + first, op.scale, n);
  });
}

void CpuExecutable::run_op(const ScaleOp& op, const Op& io, const Step& step) {
  const float* x = values(io.inputs[0]);
  float* y = values(*io.output);
  for_elements(*io.output, step, [&](std::size_t first, std::size_t n) {
    kernels_.scale(x + first, y + first, op.factor, n);
  });
}

void CpuExecutable::run_op(const SoftcapOp& op, const Op& io, const Step& step) {
  const float* x = values(io.inputs[0]);
  float* y = values(*io.output);
  for_elements(*io.output, step, [&](std::size_t first, std::size_t n) {
    kernels_.softcap(x + first, y + first, op.cap, n);
  });
}

void CpuExecutable::run_op(const SelectRowsOp&, const Op& io, const Step& step) {
  const float* x = values(io.inputs[0]);
  float* y = values(*io.output);
  const std::size_t n = width(*io.output);
  for (const std::int32_t row : step.inputs.selected_rows) {
    std::memcpy(y, x + static_cast<std::size_t>(row) * n, n * sizeof(float));
    y += n;
  }
}

}  // namespace quarrel::cpu
