// The KV cache's memory on the CPU.
#pragma once

#include <span>
#include <string_view>
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
  std::string_view layout_id() const override { return "cpu-1"; }
  std::size_t block_bytes(std::size_t group) const override;
  void read_block(std::size_t group, BlockId block, std::span<std::byte> out) const override;
  void write_block(std::size_t group, BlockId block, std::span<const std::byte> bytes) override;
  void copy_block(std::size_t group, BlockId from, BlockId to) override;

  const KVView& layer(std::size_t index) const { return views_[index]; }

 private:
  // Calls visit(base, n): K, then V of each layer of the group lies in runs of n bytes a block.
  template <class Visit>
  void each_side(std::size_t group, const Visit& visit) const;

  KVLayout layout_;
  std::vector<LayerGroup> groups_;
  Buffer memory_;
  std::vector<KVView> views_;  // [n_layers]
};

// Bytes of one block of each group. InvalidArgument for a dtype or shape the kernels do not take.
std::vector<std::size_t> kv_block_bytes(const Program& program, std::size_t block_size,
                                        DType k_dtype, DType v_dtype);

}  // namespace quarrel::cpu
