// Replays a Program on the CPU.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <vector>

#include "core/buffer.h"
#include "core/thread_pool.h"
#include "cpu/cpu_kv_storage.h"
#include "cpu/kernels.h"
#include "cpu/packing/packed_weights.h"
#include "cpu/schedule.h"
#include "program/device.h"
#include "program/memory_planner.h"

namespace quarrel::cpu {

// A work item of attention and the partitions that it sees.
struct AttentionWork {
  AttentionArgs args;
  AttentionItem item;
  AttentionPartitions partitions;
};

// Rows [first, first + n) of a value.
struct RowRange {
  std::size_t first;
  std::size_t n;
};

// Bytes of everything beside weights and the KV cache.
struct ScratchSizes {
  std::size_t token_arena;
  std::size_t selected_arena;
  std::size_t per_thread;
  std::size_t threads;  // per_thread for each of them
  std::size_t partials;
  std::size_t attention_work;
  std::size_t rope_tables;
  std::vector<std::size_t> quantized;  // [n_slots]

  std::size_t total() const;
};

ScratchSizes scratch_sizes(const Schedule& order, const MemoryPlan& plan, const StepLimits& limits,
                           int n_threads);
// Parts of an attention stage, in kAttentionPartition sums, when it is split over the threads.
std::size_t partial_bytes(const Program& program, std::size_t max_context_tokens, int n_threads);

class CpuExecutable final : public Executable {
 public:
  CpuExecutable(std::shared_ptr<const Program> program, const StepLimits& limits,
                const KernelTable& kernels, std::shared_ptr<ThreadPool> pool,
                std::shared_ptr<MemoryLedger> ledger);

  std::span<const float> run(const StepInputs& inputs, KVStorage& storage) override;
  void shrink() override;
  void set_profiling(bool on) override;
  std::vector<StageTime> stage_times() const override { return profile_.times(); }
  void set_trace(std::shared_ptr<SpanLog> log) override;
  std::vector<std::string> track_names() const override;

 private:
  struct Step;  // what the ops of one run share
  struct Trace {
    std::shared_ptr<SpanLog> log;
    std::uint32_t step = 0;  // names in the log
    std::uint32_t rope_tables = 0;
    std::vector<std::uint32_t> stages;
  };

  // Stages
  void run_stage(std::size_t index, const Step& step);
  void run_rows(const Stage& stage, const Step& step);
  void run_linear(const Stage& stage, const Step& step);
  void run_attention(const Stage& stage, const Step& step);
  void run_select_rows(const Stage& stage, const Step& step);

  // Row-wise ops, on some rows of a Rows stage
  void apply(const EmbeddingOp& op, const Op& io, RowRange rows, const Step& step);
  void apply(const RmsNormOp& op, const Op& io, RowRange rows, const Step& step);
  void apply(const RopeOp& op, const Op& io, RowRange rows, const Step& step);
  void apply(const KVWriteOp& op, const Op& io, RowRange rows, const Step& step);
  void apply(const SiluMulOp& op, const Op& io, RowRange rows, const Step& step);
  void apply(const GeluMulOp& op, const Op& io, RowRange rows, const Step& step);
  void apply(const AddOp& op, const Op& io, RowRange rows, const Step& step);
  void apply(const ScaleOp& op, const Op& io, RowRange rows, const Step& step);
  void apply(const SoftcapOp& op, const Op& io, RowRange rows, const Step& step);
  template <class OtherOp>
  void apply(const OtherOp&, const Op&, RowRange, const Step&) {}  // never in a Rows stage
  void quantize(const Quantization& quantization, RowRange rows);

  void run_whole_attention();
  void run_split_attention();
  LinearArgs linear_args(const Op& op, std::size_t slot);

  float* values(ValueId id);
  std::size_t width(ValueId id) const { return program_->value(id).width; }
  std::size_t n_rows(RowSpace rows, const Step& step) const;
  std::byte* scratch(int thread);
  void select_arena(std::size_t n_rows);
  void fill_rope_tables(std::span<const std::int32_t> positions);

  Schedule schedule_;
  StepProfile profile_;
  Trace trace_;
  std::shared_ptr<const Program> program_;  // the schedule's
  const KernelTable& kernels_;
  std::shared_ptr<ThreadPool> pool_;
  std::shared_ptr<MemoryLedger> ledger_;
  MemoryPlan plan_;
  std::size_t max_tokens_;
  std::size_t max_selected_;  // rows that selected_arena_ has room for
  ScratchSizes sizes_;
  PackedWeights weights_;
  Buffer token_arena_;
  Buffer selected_arena_;
  Buffer large_arena_;  // in its place for steps that select more rows
  std::size_t large_rows_ = 0;
  float* selected_ = nullptr;  // the arena of this step, with room for selected_rows_
  std::size_t selected_rows_ = 0;
  Buffer scratch_;                       // one part per thread
  std::vector<LinearArgs> linear_work_;  // of one stage, as the next
  MemoryLedger::Charge attention_work_charge_;
  std::vector<AttentionWork> attention_work_;  // of one stage; has room for the largest step
  Buffer partials_;                            // sums of partitions
  std::vector<Buffer> quantized_;  // [n_slots], rows of quantized_row_bytes(slot's width)
  Buffer rope_memory_;
  std::vector<float*> rope_tables_;  // [n_ropes], [max_tokens, 2, n_rotated / 2]
};

}  // namespace quarrel::cpu
