// The attention stage of CpuExecutable: which thread computes what.
//
// A work item is the query heads of one KV head for some tokens of one sequence. Where there are
// too few of them for the threads (one sequence, few KV heads, a long context) an item's partitions
// of the cache become items of their own, joined afterwards in the same order: the same bits.
#include <algorithm>
#include <variant>

#include "cpu/cpu_executable.h"
#include "cpu/cpu_step.h"

namespace quarrel::cpu {
namespace {

constexpr std::size_t kItemsPerThread = 4;  // fewer than that, and items are split

std::size_t rows_of(const AttentionWork& work) {
  return work.item.n_tokens * (work.args.n_heads / work.args.view.n_kv_heads);
}

// Floats that one partition of an item takes.
std::size_t partial_floats(const AttentionWork& work) {
  return attention_partial(rows_of(work), work.args.view.head_dim);
}

AttentionWork make_work(const AttentionArgs& args, const AttentionItem& item) {
  return {args, item, AttentionPartitions(attention_span(args, item))};
}

}  // namespace

// A text of max_context_tokens touches at most this many partitions, wherever its window begins.
std::size_t partial_bytes(const Program& program, std::size_t max_context_tokens, int n_threads) {
  if (n_threads < 2) return 0;
  std::size_t floats = 0;
  for (const KVLayer& layer : program.kv_layers)
    floats = std::max(floats, attention_partial(kAttentionRows, layer.head_dim));
  const std::size_t n_partitions =
      (max_context_tokens + kAttentionPartition - 1) / kAttentionPartition;
  const std::size_t n_work = kItemsPerThread * static_cast<std::size_t>(n_threads) - 1;
  return n_work * n_partitions * floats * sizeof(float);
}

void CpuExecutable::run_attention(const Stage& stage, const Step& step) {
  const Op& io = program_->ops[stage.ops.front()];
  const auto& op = std::get<AttentionOp>(io.kind);
  const StepInputs& in = step.inputs;
  const GroupInputs& group = in.groups[program_->group_of_layer[op.layer]];
  const KVLayer& layer = program_->kv_layers[op.layer];
  const std::size_t per_item = kAttentionRows / (op.n_heads / layer.n_kv_heads);
  attention_work_.clear();
  for (std::size_t s = 0; s < in.n_seqs(); ++s) {
    const AttentionArgs args{values(io.inputs[0]),
                             values(*io.output),
                             step.storage.layer(op.layer),
                             group.block_tables.data() + s * group.max_blocks,
                             in.positions.data(),
                             op.n_heads,
                             group.window != 0 ? group.window : layer.window,
                             group.window != 0 ? group.sinks : 0,
                             op.scale,
                             op.softcap};
    const auto end = static_cast<std::size_t>(in.query_start_loc[s + 1]);
    for (auto token = static_cast<std::size_t>(in.query_start_loc[s]); token < end;
         token += per_item)
      for (std::size_t head = 0; head < layer.n_kv_heads; ++head)
        attention_work_.push_back(make_work(args, {head, token, std::min(per_item, end - token)}));
  }
  const auto n_threads = static_cast<std::size_t>(pool_->n_threads());
  if (n_threads > 1 && attention_work_.size() < kItemsPerThread * n_threads) {
    run_split_attention();
  } else {
    run_whole_attention();
  }
}

void CpuExecutable::run_whole_attention() {
  pool_->parallel_for(attention_work_.size(), [&](std::size_t i, int thread) {
    const AttentionWork& work = attention_work_[i];
    kernels_.attention(work.args, work.item, reinterpret_cast<float*>(scratch(thread)));
  });
}

void CpuExecutable::run_split_attention() {
  std::size_t most = 0;
  std::size_t floats = 0;
  for (const AttentionWork& work : attention_work_) {
    most = std::max(most, work.partitions.n);
    floats = std::max(floats, partial_floats(work));
  }
  if (most < 2) return run_whole_attention();
  const std::size_t n_work = attention_work_.size();
  // A text that is longer than planned is computed without splitting: slower, the same bits.
  if (n_work * most * floats * sizeof(float) > partials_.size()) return run_whole_attention();
  const auto partials = [&](std::size_t i) { return partials_.as<float>() + i * most * floats; };
  pool_->parallel_for(n_work * most, [&](std::size_t index, int thread) {
    const AttentionWork& work = attention_work_[index / most];
    const std::size_t partition = index % most;
    if (partition >= work.partitions.n) return;
    kernels_.attention_partition(work.args, work.item, work.partitions[partition],
                                 partials(index / most) + partition * partial_floats(work),
                                 reinterpret_cast<float*>(scratch(thread)));
  });
  pool_->parallel_for(n_work, [&](std::size_t i, int thread) {
    const AttentionWork& work = attention_work_[i];
    kernels_.attention_join(work.args, work.item, work.partitions.n, partials(i),
                            reinterpret_cast<float*>(scratch(thread)));
  });
}

}  // namespace quarrel::cpu
