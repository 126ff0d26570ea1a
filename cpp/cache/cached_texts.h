// Texts and the blocks that hold their K and V: what a cache can save and take back.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "cache/block_table.h"

namespace quarrel {

using TokenId = std::int32_t;

// A forest of text blocks, parents before their children. One with fewer than block_size tokens
// ends its text. A layer group that has let go of a block says kNoBlock.
struct CachedTexts {
  static constexpr std::int32_t kNoParent = -1;

  std::size_t block_size;
  std::size_t n_groups;
  std::vector<std::int32_t> parents;   // [n], index of the block before, or kNoParent
  std::vector<std::uint32_t> lengths;  // [n], tokens in it
  std::vector<TokenId> tokens;         // [n, block_size], zeros after the last one
  std::vector<BlockId> blocks;         // [n, n_groups]

  std::size_t size() const { return parents.size(); }
  std::span<const TokenId> text(std::size_t at) const {
    return std::span(tokens).subspan(at * block_size, lengths[at]);
  }
  BlockId block(std::size_t at, std::size_t group) const { return blocks[at * n_groups + group]; }

  void set_block(std::size_t at, std::size_t group, BlockId block) {
    blocks[at * n_groups + group] = block;
  }

  // Returns its index. text: 1 to block_size tokens. Its blocks are kNoBlock until they are set.
  std::int32_t add(std::int32_t parent, std::span<const TokenId> text);
  // A whole text, one block after the other. tables: [n_groups], each covers the text.
  void add_chain(std::span<const TokenId> text, const BlockTables& tables);

  std::size_t n_tokens() const;       // of all text blocks
  std::size_t n_held_blocks() const;  // of all groups
  // Indices from the text's beginning to `at`.
  std::vector<std::size_t> path(std::size_t at) const;
};

}  // namespace quarrel
