// The file format of saved K and V; docs/kv-cache.md describes it byte by byte. A reader trusts
// nothing: every count is checked against the size of the file before it is believed.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "cache/cached_texts.h"
#include "core/files.h"

namespace quarrel {

enum class SnapshotKind : std::uint32_t { PrefixCache = 0, Sequence = 1 };

// All that K and V depend on beside the tokens, and how they lie in memory: names and values, in a
// fixed order. What is restored must agree in all of them.
using SnapshotIdentity = std::vector<std::pair<std::string, std::string>>;

// What a saved file must be like.
struct SnapshotShape {
  SnapshotKind kind;
  SnapshotIdentity identity;
  std::size_t block_size;                // tokens
  std::vector<std::size_t> block_bytes;  // [n_groups]
};

// Puts the bytes of text block `at` in `group`.
using BlockReader =
    std::function<void(std::size_t at, std::size_t group, std::span<std::byte> out)>;

using ByteSink = std::function<void(std::span<const std::byte>)>;

// Returns how many bytes it has written.
std::uint64_t write_snapshot(const ByteSink& sink, const SnapshotShape& shape,
                             const CachedTexts& texts, const BlockReader& read_block);

// Opens a saved file; what does not agree with the shape or is damaged is refused by name.
class SnapshotReader {
 public:
  // Checks header and texts, not yet the blocks. Throws SnapshotError.
  SnapshotReader(std::unique_ptr<ByteSource> source, const SnapshotShape& shape);

  // texts().blocks: the number of the held block in the file, or kNoBlock.
  const CachedTexts& texts() const { return texts_; }
  std::size_t n_blocks() const { return groups_.size(); }
  // out: [block_bytes of its group]. Throws SnapshotError when it is damaged.
  void read_block(BlockId number, std::span<std::byte> out) const;
  // Reads every block once. Throws SnapshotError.
  void check_blocks() const;

 private:
  void locate_blocks(std::uint64_t first_offset);

  std::unique_ptr<ByteSource> source_;
  std::vector<std::size_t> block_bytes_;  // [n_groups]
  CachedTexts texts_;
  std::uint64_t seed_ = 0;              // of the blocks' checksums: the file's own
  std::vector<std::uint8_t> groups_;    // [n_blocks]
  std::vector<std::uint64_t> offsets_;  // [n_blocks + 1], the last one is the end of the file
};

}  // namespace quarrel
