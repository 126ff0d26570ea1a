// The interface of every KV cache strategy: bookkeeping of blocks, no tensors.
//
// A strategy says which physical block holds which positions of a sequence; the device owns the
// memory behind the blocks and attention sees a block table only. So results cannot depend on the
// strategy as long as a block table is right.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace quarrel {

using TokenId = std::int32_t;
using BlockId = std::int32_t;
inline constexpr BlockId kNoBlock = -1;

enum class SequenceId : std::int64_t {};

// The longest prefix of a prompt whose K and V are already there, and why it is no longer.
struct PrefixMatch {
  SequenceId sequence;
  std::size_t n_tokens;
  // "none" (all but the last token was there), "empty" (nothing cached), "diverged" (the cached
  // text differs from here on), "shorter" (the cached text ends here), "disabled".
  std::string_view miss_reason;
};

// Running out is an answer, not an error.
struct Reservation {
  bool ok;
  std::string_view reason;  // "" when ok; else "no_free_blocks" or "sequence_full"
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
  std::size_t n_tokens;  // committed
  // [n_groups]: entry i is the block of positions [i * block_size, (i + 1) * block_size).
  std::vector<std::span<const BlockId>> block_tables;
};

struct CacheStats {
  std::size_t n_blocks;         // of all groups
  std::size_t n_used_blocks;    // held by live sequences
  std::size_t n_cached_blocks;  // held for reuse, may be evicted
  std::size_t n_sequences;      // live
  std::size_t n_prefix_queries_tokens;
  std::size_t n_prefix_hit_tokens;
  std::size_t n_evicted_blocks;
};

// Not thread safe: the engine's thread owns it. A SequenceId that is not live raises
// InvalidArgument.
class KVCache {
 public:
  virtual ~KVCache() = default;
  virtual std::string_view strategy() const = 0;
  virtual std::size_t block_size() const = 0;
  virtual std::size_t n_groups() const = 0;

  // Opens a sequence for a prompt. At least one token of a prompt is always left to compute, since
  // its logits are wanted. max_tokens: the most this sequence will ever hold.
  virtual PrefixMatch match_prefix(std::span<const TokenId> prompt, std::size_t max_tokens) = 0;
  // Makes room for the next n_tokens after the committed ones.
  virtual Reservation reserve(SequenceId sequence, std::size_t n_tokens) = 0;
  // These tokens were computed into reserved slots.
  virtual void commit(SequenceId sequence, std::span<const TokenId> tokens) = 0;
  virtual Fork fork(SequenceId sequence) = 0;
  // Forgets everything after the first n_tokens.
  virtual void trim(SequenceId sequence, std::size_t n_tokens) = 0;
  virtual void release(SequenceId sequence) = 0;

  virtual SequenceView view(SequenceId sequence) const = 0;
  // Copies that forks have made necessary since the last call.
  virtual std::vector<BlockCopy> take_copies() = 0;
  virtual CacheStats stats() const = 0;
  // Throws Error naming the broken invariant. For tests.
  virtual void check_invariants() const = 0;
};

}  // namespace quarrel
