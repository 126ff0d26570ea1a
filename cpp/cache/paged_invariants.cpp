// What must hold of a paged cache at any time.
#include <algorithm>
#include <string>

#include "cache/layer_groups.h"
#include "cache/paged_cache.h"
#include "core/error.h"

namespace quarrel {
namespace {

[[noreturn]] void broken(const std::string& what) {
  throw Error("[paged_cache] invariant broken: " + what);
}

}  // namespace

void PagedCache::check_sequence(const Sequence& s) const {
  const std::size_t n_full = s.n_tokens / block_size_;
  if (s.n_tokens > s.n_writable || s.n_writable > std::max(s.max_tokens, s.n_tokens))
    broken("a sequence may write where it must not");
  const bool whole = s.path.size() == n_full && s.tail.size() == s.n_tokens % block_size_;
  const bool cut_short = s.path.size() <= n_full && s.tail.empty();
  if (reuse_prefixes_ && !(s.is_text_known ? whole : cut_short))
    broken("a sequence has lost its text");
  if (s.memory.bytes() < sequence_bytes(config_, s.n_entries) || s.path.size() > s.n_entries)
    broken("a sequence takes more memory than was charged");
  for (std::size_t i = 0; i < s.path.size(); ++i)
    if (index_.parent(s.path[i]) != (i == 0 ? kRootNode : s.path[i - 1]))
      broken("a sequence's text is not one chain");
  for (std::size_t g = 0; g < pools_.size(); ++g) {
    const auto& blocks = s.tables[g].blocks;
    if (blocks.size() < blocks_for(s.n_writable, block_size_)) broken("a block table is too short");
    if (blocks.size() > s.n_entries) broken("a block table is longer than was charged");
    const auto needed = needed_blocks(pools_[g].spec(), block_size_, s.n_tokens);
    for (std::size_t b = 0; b < blocks.size(); ++b) {
      if ((b >= needed.end || needed.contains(b)) != (blocks[b] != kNoBlock))
        broken("a block table lacks a needed block or keeps one outside the window");
      if (b < s.path.size() && blocks[b] != kNoBlock && index_.block(s.path[b], g) != blocks[b])
        broken("a full block is not the published one");
      if (b >= needed.end && !pools_[g].exclusive(blocks[b])) broken("a reserved block is shared");
    }
  }
}

void PagedCache::check_invariants() const {
  std::vector<std::size_t> tips(index_.n_slots(), 0);
  for (const auto& [id, sequence] : live_) {
    check_sequence(sequence);
    ++tips[static_cast<std::size_t>(sequence.tip())];
  }
  index_.check_invariants(tips);
  if (!bookkeeping_.is_exact()) broken("the ledger was charged wrongly");
  std::size_t n_bytes = fixed_bytes_;
  for (const auto& [id, sequence] : live_) n_bytes += sequence.memory.bytes();
  if (n_bytes != bookkeeping_.taken_bytes()) broken("the memory of a sequence was lost");
  for (std::size_t g = 0; g < pools_.size(); ++g) {
    std::vector<std::uint32_t> holders(pools_[g].n_blocks(), 0);
    for (const auto& [id, sequence] : live_)
      for (const BlockId block : sequence.tables[g].blocks)
        if (block != kNoBlock) ++holders[static_cast<std::size_t>(block)];
    pools_[g].check_invariants(holders);
  }
}

}  // namespace quarrel
