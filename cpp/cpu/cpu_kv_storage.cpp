#include "cpu/cpu_kv_storage.h"

#include <cstring>
#include <string>

#include "core/error.h"

namespace quarrel::cpu {
namespace {

KVElement element(DType dtype) {
  if (dtype == DType::F32) return KVElement::F32;
  if (dtype == DType::F16) return KVElement::F16;
  if (dtype == DType::BF16) return KVElement::BF16;
  if (dtype == DType::Q8_0) return KVElement::Q8_0;
  if (dtype == DType::Q4_0) return KVElement::Q4_0;
  throw InvalidArgument("[kv_cache] expected a K or V type among f32, f16, bf16, q8_0, q4_0, got " +
                        std::string(traits(dtype).name));
}

// The buffer and the copies see a layer's K or V as n_blocks equal runs of bytes.
std::size_t side_block_bytes(const KVLayer& layer, std::size_t block_size, DType dtype) {
  return layer.n_kv_heads * block_size * kv_token_bytes(element(dtype), layer.head_dim);
}

void check(const Program& program, std::size_t block_size, DType k_dtype, DType v_dtype) {
  element(k_dtype);
  element(v_dtype);
  if (block_size == 0 || block_size % kKVUnit != 0)
    throw InvalidArgument("[kv_cache] expected a block size that is a multiple of " +
                          std::to_string(kKVUnit) + ", got " + std::to_string(block_size));
  const bool quantized = is_quantized(element(k_dtype)) || is_quantized(element(v_dtype));
  for (const auto& layer : program.kv_layers) {
    if (quantized && layer.head_dim > kKVMaxQuantizedHead)
      throw InvalidArgument("[kv_cache] expected a head size of at most " +
                            std::to_string(kKVMaxQuantizedHead) + " for quantised K or V, got " +
                            std::to_string(layer.head_dim) + "; use f16");
    if (layer.head_dim % kKVLanes != 0)
      throw InvalidArgument("[attention] expected a head size that is a multiple of " +
                            std::to_string(kKVLanes) + ", got " + std::to_string(layer.head_dim));
  }
}

std::size_t total_bytes(const Program& program, const KVLayout& layout) {
  const auto bytes = kv_block_bytes(program, layout.block_size, layout.k_dtype, layout.v_dtype);
  std::size_t total = 0;
  for (std::size_t g = 0; g < bytes.size(); ++g) total += bytes[g] * layout.n_blocks[g];
  return total;
}

}  // namespace

std::vector<std::size_t> kv_block_bytes(const Program& program, std::size_t block_size,
                                        DType k_dtype, DType v_dtype) {
  check(program, block_size, k_dtype, v_dtype);
  std::vector<std::size_t> bytes(program.groups.size(), 0);
  for (std::size_t i = 0; i < program.kv_layers.size(); ++i)
    bytes[program.group_of_layer[i]] +=
        side_block_bytes(program.kv_layers[i], block_size, k_dtype) +
        side_block_bytes(program.kv_layers[i], block_size, v_dtype);
  return bytes;
}

CpuKVStorage::CpuKVStorage(const Program& program, const KVLayout& layout, MemoryLedger& ledger)
    : layout_(layout),
      groups_(program.groups),
      memory_(ledger, MemoryKind::KV, total_bytes(program, layout)) {
  std::byte* next = memory_.data();
  for (std::size_t i = 0; i < program.kv_layers.size(); ++i) {
    const KVLayer& layer = program.kv_layers[i];
    const std::size_t n_blocks = layout.n_blocks[program.group_of_layer[i]];
    std::byte* k = next;
    next += n_blocks * side_block_bytes(layer, layout.block_size, layout.k_dtype);
    std::byte* v = next;
    next += n_blocks * side_block_bytes(layer, layout.block_size, layout.v_dtype);
    views_.push_back({k, v, element(layout.k_dtype), element(layout.v_dtype), layer.n_kv_heads,
                      layer.head_dim, layout.block_size});
  }
}

template <class Visit>
void CpuKVStorage::each_side(std::size_t group, const Visit& visit) const {
  for (const std::size_t i : groups_[group].layers) {
    const KVView& view = views_[i];
    const KVLayer layer{view.n_kv_heads, view.head_dim, 0};
    visit(view.k, side_block_bytes(layer, layout_.block_size, layout_.k_dtype));
    visit(view.v, side_block_bytes(layer, layout_.block_size, layout_.v_dtype));
  }
}

std::size_t CpuKVStorage::block_bytes(std::size_t group) const {
  std::size_t total = 0;
  each_side(group, [&](const std::byte*, std::size_t n) { total += n; });
  return total;
}

void CpuKVStorage::read_block(std::size_t group, BlockId block, std::span<std::byte> out) const {
  std::byte* next = out.data();
  each_side(group, [&](const std::byte* base, std::size_t n) {
    std::memcpy(next, base + static_cast<std::size_t>(block) * n, n);
    next += n;
  });
}

void CpuKVStorage::write_block(std::size_t group, BlockId block, std::span<const std::byte> bytes) {
  const std::byte* next = bytes.data();
  each_side(group, [&](std::byte* base, std::size_t n) {
    std::memcpy(base + static_cast<std::size_t>(block) * n, next, n);
    next += n;
  });
}

void CpuKVStorage::copy_block(std::size_t group, BlockId from, BlockId to) {
  each_side(group, [&](std::byte* base, std::size_t n) {
    std::memcpy(base + static_cast<std::size_t>(to) * n, base + static_cast<std::size_t>(from) * n,
                n);
  });
}

}  // namespace quarrel::cpu
