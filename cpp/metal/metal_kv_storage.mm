#import "metal/metal_kv_storage.h"

#include <algorithm>
#include <cstring>
#include <iterator>
#include <string>

#include "core/error.h"
#include "metal/kv_types.h"

namespace quarrel::metal {
namespace {

// Those that attention_prefill.metal is compiled for.
constexpr std::size_t kHeadDims[] = {16, 32, 64, 80, 96, 128, 256};

std::size_t side_bytes(const KVLayer& layer, std::size_t block_size, DType dtype) {
  return layer.n_kv_heads * kv_head_bytes(kv_type(dtype), static_cast<quarrel_uint>(layer.head_dim),
                                          static_cast<quarrel_uint>(block_size));
}

void check(const Program& program, std::size_t block_size) {
  if (block_size == 0 || block_size % kKVTileTokens != 0)
    throw InvalidArgument("[kv_cache] expected a block size that is a multiple of " +
                          std::to_string(kKVTileTokens) + ", got " + std::to_string(block_size));
  for (const KVLayer& layer : program.kv_layers)
    if (std::ranges::find(kHeadDims, layer.head_dim) == std::end(kHeadDims))
      throw InvalidArgument(
          "[attention] expected a head size among 16, 32, 64, 80, 96, 128, 256 on Metal, got " +
          std::to_string(layer.head_dim) + "; use device=\"cpu\"");
}

}  // namespace

std::vector<std::size_t> kv_block_bytes(const Program& program, std::size_t block_size,
                                        DType k_dtype, DType v_dtype) {
  check(program, block_size);
  std::vector<std::size_t> bytes(program.groups.size(), 0);
  for (std::size_t i = 0; i < program.kv_layers.size(); ++i)
    bytes[program.group_of_layer[i]] += side_bytes(program.kv_layers[i], block_size, k_dtype) +
                                        side_bytes(program.kv_layers[i], block_size, v_dtype);
  return bytes;
}

MetalKVStorage::MetalKVStorage(const Program& program, const KVLayout& layout,
                               const Context& context, MemoryLedger& ledger)
    : layout_(layout), groups_(program.groups) {
  check(program, layout.block_size);
  for (std::size_t i = 0; i < program.kv_layers.size(); ++i) {
    const std::size_t n_blocks = layout.n_blocks[program.group_of_layer[i]];
    for (const DType dtype : {layout.k_dtype, layout.v_dtype}) {
      const std::size_t n = side_bytes(program.kv_layers[i], layout.block_size, dtype);
      sides_.push_back({context.allocate(ledger, MemoryKind::KV, n * n_blocks), n});
    }
  }
}

template <class Visit>
void MetalKVStorage::each_side(std::size_t group, const Visit& visit) const {
  for (const std::size_t layer : groups_[group].layers) {
    visit(sides_[2 * layer]);
    visit(sides_[2 * layer + 1]);
  }
}

std::size_t MetalKVStorage::n_bytes() const {
  std::size_t n = 0;
  for (const Side& side : sides_) n += side.memory.size();
  return n;
}

std::size_t MetalKVStorage::block_bytes(std::size_t group) const {
  std::size_t n = 0;
  each_side(group, [&](const Side& side) { n += side.block_bytes; });
  return n;
}

void MetalKVStorage::read_block(std::size_t group, BlockId block, std::span<std::byte> out) const {
  std::byte* next = out.data();
  each_side(group, [&](const Side& side) {
    std::memcpy(next, side.block(block), side.block_bytes);
    next += side.block_bytes;
  });
}

void MetalKVStorage::write_block(std::size_t group, BlockId block,
                                 std::span<const std::byte> bytes) {
  const std::byte* next = bytes.data();
  each_side(group, [&](const Side& side) {
    std::memcpy(side.block(block), next, side.block_bytes);
    next += side.block_bytes;
  });
}

void MetalKVStorage::copy_block(std::size_t group, BlockId from, BlockId to) {
  each_side(group, [&](const Side& side) {
    std::memcpy(side.block(to), side.block(from), side.block_bytes);
  });
}

}  // namespace quarrel::metal
