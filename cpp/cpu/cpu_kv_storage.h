// The KV cache's memory on the CPU.
#pragma once

#include <vector>

#include "core/buffer.h"
#include "cpu/kernels.h"
#include "program/device.h"

namespace quarrel::cpu {

class CpuKVStorage final : public KVStorage {
 public:
  CpuKVStorage(const Program& program, const KVLayout& layout, MemoryLedger& ledger);

  const KVLayout& layout() const override { return layout_; }
  std::size_t n_bytes() const override { return memory_.size(); }
  void copy_block(std::size_t group, BlockId from, BlockId to) override;

  const KVView& layer(std::size_t index) const { return views_[index]; }

 private:
  KVLayout layout_;
  std::vector<LayerGroup> groups_;
  Buffer memory_;
  std::vector<KVView> views_;  // [n_layers]
};

// Bytes of one block of each group. InvalidArgument for a dtype or shape the kernels do not take.
std::vector<std::size_t> kv_block_bytes(const Program& program, std::size_t block_size,
                                        DType k_dtype, DType v_dtype);

}  // namespace quarrel::cpu
