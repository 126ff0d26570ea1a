// Device memory of the twin, as saving and restoring see it, and files that are only bytes.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "cache/block_store.h"
#include "core/files.h"

namespace quarrel::testing {

// Blocks of words, one for each slot.
class TwinStore final : public BlockStore {
 public:
  using Memory = std::vector<std::vector<std::uint64_t>>;  // [n_groups][slots]

  explicit TwinStore(Memory& memory, std::size_t block_size = 0)
      : memory_(memory), block_size_(block_size) {}
  void set_block_size(std::size_t block_size) { block_size_ = block_size; }

  std::string_view layout_id() const override { return "twin"; }
  std::size_t block_bytes(std::size_t) const override { return 8 * block_size_; }
  void read_block(std::size_t group, BlockId block, std::span<std::byte> out) const override {
    std::memcpy(out.data(), at(group, block), out.size());
  }
  void write_block(std::size_t group, BlockId block, std::span<const std::byte> bytes) override {
    std::memcpy(at(group, block), bytes.data(), bytes.size());
  }
  void copy_block(std::size_t group, BlockId from, BlockId to) override {
    std::copy_n(at(group, from), block_size_, at(group, to));
  }

 private:
  std::uint64_t* at(std::size_t group, BlockId block) const {
    return &memory_.at(group).at(static_cast<std::size_t>(block) * block_size_);
  }

  Memory& memory_;
  std::size_t block_size_;
};

class MemorySource final : public ByteSource {
 public:
  explicit MemorySource(std::vector<std::byte> bytes) : bytes_(std::move(bytes)) {}
  const std::string& name() const override { return name_; }
  std::uint64_t size() const override { return bytes_.size(); }
  void read(std::uint64_t offset, std::span<std::byte> out) const override {
    if (offset > bytes_.size() || out.size() > bytes_.size() - offset)
      throw std::logic_error("the reader went beyond the end");
    std::ranges::copy(std::span(bytes_).subspan(offset, out.size()), out.begin());
  }

 private:
  const std::string name_ = "memory";
  const std::vector<std::byte> bytes_;
};

}  // namespace quarrel::testing
