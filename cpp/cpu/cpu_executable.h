// Replays a Program on the CPU.
#pragma once

#include <memory>
#include <span>
#include <vector>

#include "core/buffer.h"
#include "core/thread_pool.h"
#include "cpu/cpu_kv_storage.h"
#include "cpu/kernels.h"
#include "program/device.h"
#include "program/memory_planner.h"

namespace quarrel::cpu {

class CpuExecutable final : public Executable {
 public:
  CpuExecutable(std::shared_ptr<const Program> program, std::size_t max_tokens,
                const KernelTable& kernels, std::shared_ptr<ThreadPool> pool,
                std::shared_ptr<MemoryLedger> ledger);

  std::span<const float> run(const StepInputs& inputs, KVStorage& storage) override;

 private:
  struct Step;  // what the ops of one run share

  void run_op(const EmbeddingOp& op, const Op& io, const Step& step);
  void run_op(const RmsNormOp& op, const Op& io, const Step& step);
  void run_op(const LinearOp& op, const Op& io, const Step& step);
  void run_op(const RopeOp& op, const Op& io, const Step& step);
  void run_op(const KVWriteOp& op, const Op& io, const Step& step);
  void run_op(const AttentionOp& op, const Op& io, const Step& step);
  void run_op(const SiluMulOp& op, const Op& io, const Step& step);
  void run_op(const GeluMulOp& op, const Op& io, const Step& step);
  void run_op(const AddOp& op, const Op& io, const Step& step);
  void run_op(const ScaleOp& op, const Op& io, const Step& step);
  void run_op(const SoftcapOp& op, const Op& io, const Step& step);
  void run_op(const SelectRowsOp& op, const Op& io, const Step& step);

  float* values(ValueId id);
  std::size_t width(ValueId id) const { return program_->value(id).width; }
  std::size_t n_rows(ValueId id, const Step& step) const;
  float* scratch(int thread);
  void grow_selected(std::size_t n_rows);
  void fill_rope_tables(std::span<const std::int32_t> positions);
  template <class Body>
  void for_elements(ValueId out, const Step& step, const Body& body);
  template <class Body>
  void for_rows(std::size_t n_rows, const Body& body);

  std::shared_ptr<const Program> program_;
  const KernelTable& kernels_;
  std::shared_ptr<ThreadPool> pool_;
  std::shared_ptr<MemoryLedger> ledger_;
  MemoryPlan plan_;
  std::size_t max_tokens_;
  std::size_t max_selected_ = 0;
  std::size_t scratch_floats_;
  MemoryLedger::Charge weights_;
  Buffer token_arena_;
  Buffer selected_arena_;
  Buffer scratch_;               // one part per thread
  Buffer rope_memory_;
  std::vector<float*> rope_tables_;  // [n_ropes], [max_tokens, 2, n_rotated / 2]
};

}  // namespace quarrel::cpu
