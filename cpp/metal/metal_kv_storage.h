// The KV cache's memory on the GPU: shared buffers, two per layer; inside a block as
// shaders/kv_layout.h says.
#pragma once

#include <vector>

#include "metal/context.h"
#include "program/device.h"

namespace quarrel::metal {

class MetalKVStorage final : public KVStorage {
 public:
  MetalKVStorage(const Program& program, const KVLayout& layout, const Context& context,
                 MemoryLedger& ledger);

  const KVLayout& layout() const override { return layout_; }
  std::size_t n_bytes() const override;
  std::string_view layout_id() const override { return "metal-1"; }
  // The host touches blocks between steps only: run() of an executable waits for its own.
  std::size_t block_bytes(std::size_t group) const override;
  void read_block(std::size_t group, BlockId block, std::span<std::byte> out) const override;
  void write_block(std::size_t group, BlockId block, std::span<const std::byte> bytes) override;
  void copy_block(std::size_t group, BlockId from, BlockId to) override;

  BufferRange k(std::size_t layer) const { return sides_[2 * layer].memory.range(); }
  BufferRange v(std::size_t layer) const { return sides_[2 * layer + 1].memory.range(); }

 private:
  struct Side {  // K or V of a layer
    SharedBuffer memory;
    std::size_t block_bytes;
    std::byte* block(BlockId id) const {
      return memory.data() + static_cast<std::size_t>(id) * block_bytes;
    }
  };
  // visit(side) for K and V of each layer of a group.
  template <class Visit>
  void each_side(std::size_t group, const Visit& visit) const;

  KVLayout layout_;
  std::vector<LayerGroup> groups_;
  std::vector<Side> sides_;  // [n_layers, 2]
};

// Bytes of one block of each group. InvalidArgument for a dtype or shape the kernels do not take.
std::vector<std::size_t> kv_block_bytes(const Program& program, std::size_t block_size,
                                        DType k_dtype, DType v_dtype);

}  // namespace quarrel::metal
