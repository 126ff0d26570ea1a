// Where the positions of a sequence lie. Logical positions and physical slots are distinct types,
// so that one cannot be passed for the other.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

namespace quarrel {

using BlockId = std::int32_t;
inline constexpr BlockId kNoBlock = -1;

enum class LogicalPosition : std::size_t {};  // of a token in its sequence
enum class PhysicalSlot : std::int64_t {};    // of a token in a group's memory
inline constexpr PhysicalSlot kNoSlot{-1};

// Entry i is the block of positions [i * block_size, (i + 1) * block_size), or kNoBlock.
using BlockTable = std::span<const BlockId>;

// kNoSlot where the table ends or the cache let the block go.
inline PhysicalSlot slot_of(BlockTable table, std::size_t block_size, LogicalPosition position) {
  const auto at = static_cast<std::size_t>(position);
  const std::size_t block = at / block_size;
  if (block >= table.size() || table[block] == kNoBlock) return kNoSlot;
  return PhysicalSlot{static_cast<std::int64_t>(table[block]) *
                          static_cast<std::int64_t>(block_size) +
                      static_cast<std::int64_t>(at % block_size)};
}

// The tables of a sequence, one per layer group, held in place: a view allocates nothing.
inline constexpr std::size_t kMaxLayerGroups = 8;

class BlockTables {
 public:
  BlockTables() = default;
  explicit BlockTables(std::size_t n_groups) : n_groups_(n_groups) {}

  std::size_t size() const { return n_groups_; }
  BlockTable& operator[](std::size_t group) { return tables_[group]; }
  const BlockTable& operator[](std::size_t group) const { return tables_[group]; }
  const BlockTable* begin() const { return tables_.data(); }
  const BlockTable* end() const { return tables_.data() + n_groups_; }

 private:
  std::size_t n_groups_ = 0;
  std::array<BlockTable, kMaxLayerGroups> tables_;
};

}  // namespace quarrel
