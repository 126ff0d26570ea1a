// The CPU behind the Device interface.
#pragma once

#include <memory>
#include <string_view>

#include "core/thread_pool.h"
#include "cpu/kernels.h"
#include "program/device.h"

namespace quarrel::cpu {

class CpuDevice final : public Device {
 public:
  // isa: see kernels_for().
  CpuDevice(int n_threads, std::string_view isa);

  std::string_view name() const override { return "cpu"; }
  std::string_view isa() const { return kernels_.name; }
  int n_threads() const { return pool_->n_threads(); }

  std::unique_ptr<Executable> compile(std::shared_ptr<const Program> program,
                                      const StepLimits& limits,
                                      std::shared_ptr<MemoryLedger> ledger) override;
  MemoryNeeds memory_needs(const Program& program, const StepLimits& limits) const override;
  std::unique_ptr<KVStorage> allocate_kv(const Program& program, const KVLayout& layout,
                                         MemoryLedger& ledger) override;
  std::vector<std::size_t> kv_block_bytes(const Program& program, std::size_t block_size,
                                          DType k_dtype, DType v_dtype) const override;

 private:
  const KernelTable& kernels_;
  std::shared_ptr<ThreadPool> pool_;
};

}  // namespace quarrel::cpu
