#include "cpu/cpu_device.h"

#include <string>
#include <utility>
#include <variant>

#include "core/error.h"
#include "cpu/cpu_executable.h"
#include "cpu/cpu_kv_storage.h"
#include "cpu/isa.h"

namespace quarrel::cpu {
namespace {

void check_supported(const Program& program) {
  for (const Op& op : program.ops) {
    const auto* attention = std::get_if<AttentionOp>(&op.kind);
    if (attention == nullptr) continue;
    const std::size_t ratio = attention->n_heads / program.kv_layers[attention->layer].n_kv_heads;
    if (ratio > kAttentionRows)
      throw InvalidArgument("[attention] expected at most " + std::to_string(kAttentionRows) +
                            " query heads per KV head, got " + std::to_string(ratio));
  }
}

}  // namespace

CpuDevice::CpuDevice(int n_threads, std::string_view isa)
    : kernels_(kernels_for(isa)), pool_(std::make_shared<ThreadPool>(n_threads)) {}

std::unique_ptr<Executable> CpuDevice::compile(std::shared_ptr<const Program> program,
                                               const StepLimits& limits,
                                               std::shared_ptr<MemoryLedger> ledger) {
  check_supported(*program);
  return std::make_unique<CpuExecutable>(std::move(program), limits, kernels_, pool_,
                                         std::move(ledger));
}

MemoryNeeds CpuDevice::memory_needs(const Program& program, const StepLimits& limits) const {
  check_supported(program);
  const Schedule order = schedule(program);
  return {packed_weight_bytes(program),
          scratch_sizes(order, plan_memory(*order.program, order.stage_of_op), limits, n_threads())
              .total()};
}

std::unique_ptr<KVStorage> CpuDevice::allocate_kv(const Program& program, const KVLayout& layout,
                                                  MemoryLedger& ledger) {
  return std::make_unique<CpuKVStorage>(program, layout, ledger);
}

std::vector<std::size_t> CpuDevice::kv_block_bytes(const Program& program, std::size_t block_size,
                                                   DType k_dtype, DType v_dtype) const {
  return cpu::kv_block_bytes(program, block_size, k_dtype, v_dtype);
}

}  // namespace quarrel::cpu
