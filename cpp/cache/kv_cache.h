// The interface of every KV cache strategy: bookkeeping of blocks, no tensors.
//
// A strategy says which physical block holds which positions of a sequence; the device owns the
// memory behind the blocks and attention sees a block table only. So results cannot depend on the
// strategy as long as a block table is right.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "cache/block_table.h"
#include "cache/cache_events.h"
#include "cache/cache_stats.h"
#include "cache/cached_texts.h"

namespace quarrel {

enum class SequenceId : std::int64_t {};

// What a cache keeps of a layer group, and so what attention may see: the token itself, the
// window - 1 before it, and the first `sinks` of the sequence. window 0: the model's own mask.
struct GroupSpec {
  std::size_t window = 0;
  std::size_t sinks = 0;
};

// The longest prefix of a prompt whose K and V are already there, and why it is no longer.
// Reasons are short enough for std::string to hold without allocating.
struct PrefixMatch {
  SequenceId sequence;
  std::size_t n_tokens;
  // "none" (all but the last token was there), "partial_block" (all whole blocks were there; the
  // rest does not fill one), "empty" (nothing cached), "diverged" (the cached text differs from
  // here on), "shorter" (the cached text ends here), "evicted" (it was cached and had to go),
  // "window_lost" (a windowed group no longer holds the tokens before a later resume point),
  // "run_too_small" (contiguous: the cached run has no room for max_tokens and no longer one was
  // to be had), "no_memory" (contiguous: none for the list of what to copy), "disabled".
  std::string miss_reason;
};

// Running out is an answer, not an error.
struct Reservation {
  bool ok;
  std::string reason;  // "" when ok; else "no_free_blocks", "sequence_full" or "no_memory"
};

struct Fork {
  Reservation reservation;
  SequenceId sequence;  // meaningful when reservation.ok
};

// Copy all layers of a group from block `from` to block `to` before the next step.
struct BlockCopy {
  std::size_t group;
  BlockId from;
  BlockId to;
};

struct SequenceView {
  std::size_t n_tokens;      // committed
  BlockTables block_tables;  // [n_groups], valid until the sequence changes
};

// Put the K and V of texts' block `text_block` into `block` of the group.
struct BlockFill {
  std::size_t text_block;
  std::size_t group;
  BlockId block;
};

struct Restored {
  Reservation reservation;
  SequenceId sequence;  // meaningful when reservation.ok, like what follows
  std::vector<BlockFill> fills;
};

// The part of a prompt that may come from the cache: one token is always left to compute.
inline std::span<const TokenId> usable_prefix(std::span<const TokenId> prompt,
                                              std::size_t max_tokens) {
  return prompt.first(prompt.empty() ? 0 : std::min(prompt.size() - 1, max_tokens));
}

// Not thread safe: the engine's thread owns it. stats() alone may be called from any thread, at any
// time. A SequenceId that is not live raises InvalidArgument.
class KVCache {
 public:
  virtual ~KVCache() = default;
  virtual std::string_view strategy() const = 0;
  virtual std::size_t block_size() const = 0;
  virtual std::size_t n_groups() const = 0;
  // Attention must not look further than this.
  virtual GroupSpec group_spec(std::size_t group) const = 0;

  // Opens a sequence for a prompt; OutOfMemoryError or std::bad_alloc if there is no memory for its
  // tables, and then nothing has changed. At least one token of a prompt is always left to compute,
  // since its logits are wanted. max_tokens: the most this sequence will ever hold.
  virtual PrefixMatch match_prefix(std::span<const TokenId> prompt, std::size_t max_tokens) = 0;
  // Makes room for the next n_tokens after the committed ones: in all groups, or nothing happens.
  // A cache that was told how large a step is at most may reserve less ahead in groups with a
  // window: then as much as a step can need, and the next reserve() asks for more.
  virtual Reservation reserve(SequenceId sequence, std::size_t n_tokens) = 0;
  // These tokens were computed into reserved slots.
  virtual void commit(SequenceId sequence, std::span<const TokenId> tokens) = 0;
  // A second sequence with the same tokens. Both must reserve before they commit again.
  virtual Fork fork(SequenceId sequence) = 0;
  // Forgets everything after the first n_tokens, reserved slots too. Returns how many tokens are
  // held now: fewer than n_tokens where a windowed group has let go of what a resume there needs.
  virtual std::size_t trim(SequenceId sequence, std::size_t n_tokens) = 0;
  virtual void release(SequenceId sequence) = 0;

  virtual SequenceView view(SequenceId sequence) const = 0;
  // Copies that forks have made necessary since the last call, to be done in this order.
  virtual std::vector<BlockCopy> take_copies() = 0;

  // What saving and restoring needs; cpp/cache/snapshot.h drives it. A strategy that does not
  // override these refuses by name.
  //
  // The texts that later prompts can find, those of live sequences too, last used first.
  virtual CachedTexts cached_texts() const;
  // Makes texts findable, held by nobody, as far as there is room: cached ones give way to them.
  // texts.blocks says which blocks there are to be had. Returns what the caller has to fill before
  // anything else happens to the cache, save for settle().
  virtual std::vector<BlockFill> adopt(const CachedTexts& texts);
  // All was filled, or what adopt() made findable is given up again.
  virtual void settle(bool filled);
  // A new sequence with the text of a chain, whose blocks cover what its next token sees; where
  // there is room to spare, others of its text become findable. The caller fills them at once.
  // Blocks that the cache holds already are shared where it can share.
  virtual Restored restore(const CachedTexts& chain, std::size_t max_tokens);

  // What happens to blocks from now on goes to this log, nullptr: nowhere. Strategies in Python
  // note nothing.
  void set_event_log(std::shared_ptr<CacheEventLog> log) { notes_.set_log(std::move(log)); }
  const CacheNotes& notes() const { return notes_; }

  virtual CacheStats stats() const = 0;
  // Throws Error naming the broken invariant. For tests.
  virtual void check_invariants() const = 0;

 protected:
  CacheNotes notes_;
};

}  // namespace quarrel
