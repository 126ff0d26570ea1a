// Saving and restoring K and V: a sequence in memory or in a file, the prefix cache in a file.
//
// Between two steps only, on the engine's thread. Pending copies are done first.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "cache/block_store.h"
#include "cache/kv_cache.h"
#include "cache/snapshot_file.h"
#include "core/buffer.h"
#include "core/memory_ledger.h"

namespace quarrel {

struct SnapshotFigures {
  std::size_t n_blocks;   // of all groups
  std::size_t n_tokens;   // of texts, each beginning counted once
  std::uint64_t n_bytes;  // of the file
};

// Writes all that later prompts could find. Throws SnapshotError; then no file has changed.
SnapshotFigures save_prefix_cache(const std::string& path, KVCache& cache, BlockStore& store,
                                  const SnapshotIdentity& identity);
SnapshotFigures save_prefix_cache(const ByteSink& sink, KVCache& cache, BlockStore& store,
                                  const SnapshotIdentity& identity);
// Makes the saved texts findable, as far as there is room, and says how much was taken; what was
// there before is not counted. A file that is damaged or does not fit is refused (SnapshotError)
// before anything changes.
SnapshotFigures load_prefix_cache(const std::string& path, KVCache& cache, BlockStore& store,
                                  const SnapshotIdentity& identity);
SnapshotFigures load_prefix_cache(std::unique_ptr<ByteSource> source, KVCache& cache,
                                  BlockStore& store, const SnapshotIdentity& identity);

// K and V of one text, outside the cache. Its bytes are charged to the ledger as snapshots.
class SequenceSnapshot {
 public:
  // tokens: those of the sequence, [n_tokens]. whole: with what the cache still has of the text
  // outside its windows, so that a resume can go back. Throws InvalidArgument if the number of
  // tokens is not that of the sequence, OutOfMemoryError if the ledger refuses.
  SequenceSnapshot(KVCache& cache, BlockStore& store, SequenceId sequence,
                   std::span<const TokenId> tokens, MemoryLedger& ledger, bool whole = false);
  // From a file. Throws SnapshotError or OutOfMemoryError.
  SequenceSnapshot(const std::string& path, const KVCache& cache, const BlockStore& store,
                   const SnapshotIdentity& identity, MemoryLedger& ledger);

  std::span<const TokenId> tokens() const {
    return std::span(chain_.tokens).first(chain_.n_tokens());
  }
  std::size_t n_bytes() const { return bytes_.size(); }
  SnapshotFigures save(const std::string& path, const SnapshotIdentity& identity) const;
  // A new sequence with this text, ready to go on. No room is an answer. A cache or store of
  // another shape, or one that needs blocks which were let go: InvalidArgument.
  Restored restore(KVCache& cache, BlockStore& store, std::size_t max_tokens) const;

 private:
  std::size_t locate_blocks(const BlockStore& store);
  template <class ReadBlock>
  void fill(MemoryLedger& ledger, const BlockStore& store, const ReadBlock& read_block);
  std::span<const std::byte> bytes_of(std::size_t at, std::size_t group) const {
    return {bytes_.data() + offsets_[at * chain_.n_groups + group], block_bytes_[group]};
  }

  CachedTexts chain_;
  std::vector<std::size_t> block_bytes_;  // [n_groups]
  std::vector<std::size_t> offsets_;      // [n, n_groups], into bytes_
  Buffer bytes_;
};

}  // namespace quarrel
