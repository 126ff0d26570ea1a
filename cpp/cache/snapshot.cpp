#include "cache/snapshot.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "core/error.h"

namespace quarrel {
namespace {

SnapshotShape shape_of(SnapshotKind kind, const KVCache& cache, const BlockStore& store,
                       const SnapshotIdentity& identity) {
  SnapshotShape shape{kind, identity, cache.block_size(), {}};
  for (std::size_t g = 0; g < cache.n_groups(); ++g)
    shape.block_bytes.push_back(store.block_bytes(g));
  return shape;
}

// Blocks are what their table says only after the copies that are due.
void do_copies(KVCache& cache, BlockStore& store) {
  for (const BlockCopy& copy : cache.take_copies())
    store.copy_block(copy.group, copy.from, copy.to);
}

// Gives adopted blocks up again unless they were filled.
class Adoption {
 public:
  Adoption(KVCache& cache, const CachedTexts& texts) : cache_(cache) {
    try {
      fills_ = cache.adopt(texts);
    } catch (...) {
      cache.settle(false);
      throw;
    }
  }
  ~Adoption() {
    if (!settled_) cache_.settle(false);
  }
  const std::vector<BlockFill>& fills() const { return fills_; }
  void keep() {
    settled_ = true;
    cache_.settle(true);
  }

 private:
  KVCache& cache_;
  std::vector<BlockFill> fills_;
  bool settled_ = false;
};

std::size_t n_tokens_of(const std::vector<BlockFill>& fills, const CachedTexts& texts) {
  std::vector<std::size_t> lengths(texts.lengths.begin(), texts.lengths.end());
  std::size_t n = 0;
  for (const BlockFill& fill : fills) n += std::exchange(lengths[fill.text_block], 0);
  return n;
}

// Blocks of the chain that only the cache's own copy of its text has.
void add_missing(CachedTexts& chain, const CachedTexts& cached) {
  std::int32_t before = CachedTexts::kNoParent;
  std::size_t b = 0;
  for (std::size_t at = 0; at < cached.size() && b < chain.size(); ++at) {
    if (cached.parents[at] != before || !std::ranges::equal(cached.text(at), chain.text(b)))
      continue;
    for (std::size_t g = 0; g < chain.n_groups; ++g)
      if (chain.block(b, g) == kNoBlock) chain.set_block(b, g, cached.block(at, g));
    before = static_cast<std::int32_t>(at);
    ++b;
  }
}

}  // namespace

SnapshotFigures save_prefix_cache(const std::string& path, KVCache& cache, BlockStore& store,
                                  const SnapshotIdentity& identity) {
  AtomicFile file(path);
  const auto figures = save_prefix_cache(
      [&](std::span<const std::byte> bytes) { file.write(bytes); }, cache, store, identity);
  file.commit();
  return figures;
}

SnapshotFigures save_prefix_cache(const ByteSink& sink, KVCache& cache, BlockStore& store,
                                  const SnapshotIdentity& identity) {
  do_copies(cache, store);
  const CachedTexts texts = cache.cached_texts();
  const std::uint64_t n_bytes =
      write_snapshot(sink, shape_of(SnapshotKind::PrefixCache, cache, store, identity), texts,
                     [&](std::size_t at, std::size_t group, std::span<std::byte> out) {
                       store.read_block(group, texts.block(at, group), out);
                     });
  cache.notes()(CacheEventKind::Save, -1, kNoBlock, texts.n_held_blocks());
  return {texts.n_held_blocks(), texts.n_tokens(), n_bytes};
}

SnapshotFigures load_prefix_cache(const std::string& path, KVCache& cache, BlockStore& store,
                                  const SnapshotIdentity& identity) {
  return load_prefix_cache(std::make_unique<FileSource>(path), cache, store, identity);
}

SnapshotFigures load_prefix_cache(std::unique_ptr<ByteSource> source, KVCache& cache,
                                  BlockStore& store, const SnapshotIdentity& identity) {
  const std::uint64_t n_bytes = source->size();
  const SnapshotReader reader(std::move(source),
                              shape_of(SnapshotKind::PrefixCache, cache, store, identity));
  reader.check_blocks();  // once before the cache changes; each again when it is taken
  do_copies(cache, store);
  Adoption adoption(cache, reader.texts());
  std::vector<std::byte> bytes;
  for (const BlockFill& fill : adoption.fills()) {
    bytes.resize(store.block_bytes(fill.group));
    reader.read_block(reader.texts().block(fill.text_block, fill.group), bytes);
    store.write_block(fill.group, fill.block, bytes);
  }
  adoption.keep();
  cache.notes()(CacheEventKind::Load, -1, kNoBlock, adoption.fills().size());
  return {adoption.fills().size(), n_tokens_of(adoption.fills(), reader.texts()), n_bytes};
}

SequenceSnapshot::SequenceSnapshot(KVCache& cache, BlockStore& store, SequenceId sequence,
                                   std::span<const TokenId> tokens, MemoryLedger& ledger,
                                   bool whole)
    : chain_{cache.block_size(), cache.n_groups(), {}, {}, {}, {}} {
  const SequenceView view = cache.view(sequence);
  if (view.n_tokens != tokens.size())
    throw InvalidArgument("[snapshot] expected the sequence's " + std::to_string(view.n_tokens) +
                          " tokens, got " + std::to_string(tokens.size()));
  do_copies(cache, store);
  chain_.add_chain(tokens, view.block_tables);
  if (whole) add_missing(chain_, cache.cached_texts());
  fill(ledger, store, [&](std::size_t at, std::size_t group, std::span<std::byte> out) {
    store.read_block(group, chain_.block(at, group), out);
  });
  cache.notes()(CacheEventKind::Save, -1, kNoBlock, chain_.n_held_blocks());
}

SequenceSnapshot::SequenceSnapshot(const std::string& path, const KVCache& cache,
                                   const BlockStore& store, const SnapshotIdentity& identity,
                                   MemoryLedger& ledger) {
  const SnapshotReader reader(std::make_unique<FileSource>(path),
                              shape_of(SnapshotKind::Sequence, cache, store, identity));
  chain_ = reader.texts();
  fill(ledger, store, [&](std::size_t at, std::size_t group, std::span<std::byte> out) {
    reader.read_block(chain_.block(at, group), out);
  });
}

// Returns the bytes of all held blocks together.
std::size_t SequenceSnapshot::locate_blocks(const BlockStore& store) {
  for (std::size_t g = 0; g < chain_.n_groups; ++g) block_bytes_.push_back(store.block_bytes(g));
  std::size_t next = 0;
  for (std::size_t at = 0; at < chain_.size(); ++at)
    for (std::size_t g = 0; g < chain_.n_groups; ++g) {
      offsets_.push_back(next);
      if (chain_.block(at, g) != kNoBlock) next += block_bytes_[g];
    }
  return next;
}

template <class ReadBlock>
void SequenceSnapshot::fill(MemoryLedger& ledger, const BlockStore& store,
                            const ReadBlock& read_block) {
  bytes_ = Buffer(ledger, MemoryKind::Snapshots, locate_blocks(store));
  for (std::size_t at = 0; at < chain_.size(); ++at)
    for (std::size_t g = 0; g < chain_.n_groups; ++g)
      if (chain_.block(at, g) != kNoBlock)
        read_block(at, g, {bytes_.data() + offsets_[at * chain_.n_groups + g], block_bytes_[g]});
}

SnapshotFigures SequenceSnapshot::save(const std::string& path,
                                       const SnapshotIdentity& identity) const {
  AtomicFile file(path);
  const std::uint64_t n_bytes =
      write_snapshot([&](std::span<const std::byte> bytes) { file.write(bytes); },
                     {SnapshotKind::Sequence, identity, chain_.block_size, block_bytes_}, chain_,
                     [&](std::size_t at, std::size_t group, std::span<std::byte> out) {
                       std::ranges::copy(bytes_of(at, group), out.begin());
                     });
  file.commit();
  return {chain_.n_held_blocks(), chain_.n_tokens(), n_bytes};
}

Restored SequenceSnapshot::restore(KVCache& cache, BlockStore& store,
                                   std::size_t max_tokens) const {
  const SnapshotShape shape = shape_of(SnapshotKind::Sequence, cache, store, {});
  if (shape.block_size != chain_.block_size || shape.block_bytes != block_bytes_)
    throw InvalidArgument(
        "[snapshot] expected a cache with the blocks of the one that was saved; restore it there.");
  do_copies(cache, store);
  Restored restored = cache.restore(chain_, max_tokens);
  for (const BlockFill& fill : restored.fills)
    store.write_block(fill.group, fill.block, bytes_of(fill.text_block, fill.group));
  if (restored.reservation.ok)
    cache.notes()(CacheEventKind::Restore, -1, kNoBlock, restored.fills.size());
  return restored;
}

}  // namespace quarrel
