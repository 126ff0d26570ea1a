// The memory behind blocks, as far as saving and copying need it: opaque bytes.
#pragma once

#include <cstddef>
#include <span>
#include <string_view>

#include "cache/block_table.h"

namespace quarrel {

// A block's bytes mean something only to a store with the same layout_id, element types, block size
// and model; nobody else looks into them.
class BlockStore {
 public:
  virtual ~BlockStore() = default;
  // Names how K and V lie inside a block; changes whenever that changes.
  virtual std::string_view layout_id() const = 0;
  // Bytes of one block of a group: all its layers, K and V.
  virtual std::size_t block_bytes(std::size_t group) const = 0;
  // out, bytes: [block_bytes(group)].
  virtual void read_block(std::size_t group, BlockId block, std::span<std::byte> out) const = 0;
  virtual void write_block(std::size_t group, BlockId block, std::span<const std::byte> bytes) = 0;
  virtual void copy_block(std::size_t group, BlockId from, BlockId to) = 0;
};

}  // namespace quarrel
