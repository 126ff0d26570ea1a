#include "cache/contiguous_cache.h"

#include <algorithm>
#include <new>
#include <string>
#include <utility>

#include "cache/layer_groups.h"
#include "core/error.h"

namespace quarrel {
namespace {

std::size_t common_prefix(std::span<const TokenId> a, std::span<const TokenId> b) {
  const auto [in_a, in_b] = std::ranges::mismatch(a, b);
  return static_cast<std::size_t>(in_a - a.begin());
}

[[noreturn]] void broken(const std::string& what) {
  throw Error("[contiguous_cache] invariant broken: " + what);
}

}  // namespace

ContiguousCache::ContiguousCache(std::size_t n_groups, std::size_t block_size, std::size_t n_blocks,
                                 bool reuse_prefixes, const BookkeepingLimits& limits)
    : n_groups_(n_groups),
      block_size_(block_size),
      n_blocks_(n_blocks),
      reuse_prefixes_(reuse_prefixes),
      bookkeeping_(limits.ledger, bookkeeping_bytes(block_size, n_blocks, limits.max_sequences), 0),
      free_(n_blocks) {
  if (n_groups == 0 || n_groups > kMaxLayerGroups || block_size == 0 || n_blocks == 0)
    throw InvalidArgument("[contiguous_cache] expected 1 to " + std::to_string(kMaxLayerGroups) +
                          " groups and at least one slot and block");
  publish_stats();
}

std::size_t ContiguousCache::bookkeeping_bytes(std::size_t block_size, std::size_t n_blocks,
                                               std::size_t max_sequences) {
  // A node of a list and one of a map: links, key and colour.
  constexpr std::size_t kSequence = sizeof(Sequence) + sizeof(std::list<Sequence>) + 64;
  return FreeRuns::n_bytes(n_blocks) +
         n_blocks * (block_size * sizeof(TokenId) + sizeof(BlockId) + kSequence) +
         max_sequences * kSequence;
}

ContiguousCache::Sequence& ContiguousCache::live(SequenceId id) {
  return const_cast<Sequence&>(std::as_const(*this).live(id));
}

const ContiguousCache::Sequence& ContiguousCache::live(SequenceId id) const {
  const auto found = live_.find(id);
  if (found == live_.end())
    throw InvalidArgument("[contiguous_cache] expected a live sequence, got " +
                          std::to_string(static_cast<std::int64_t>(id)));
  return found->second.front();
}

SequenceId ContiguousCache::open(Sequence sequence) {
  std::list<Sequence> alone;
  alone.push_back(std::move(sequence));
  const SequenceId id{next_id_};
  live_.emplace(id, std::move(alone));
  ++next_id_;
  return id;
}

PrefixMatch ContiguousCache::match_prefix(std::span<const TokenId> prompt, std::size_t max_tokens) {
  const SequenceId id = open({{}, max_tokens, {}, {}});  // all that may fail
  const auto usable = usable_prefix(prompt, max_tokens);
  std::size_t n_best = 0;
  const auto best = longest_parked(usable, n_best);
  PrefixMatch match{id, 0,
                    !reuse_prefixes_  ? "disabled"
                    : usable.empty()  ? "none"
                    : parked_.empty() ? "empty"
                                      : "diverged"};
  if (best != parked_.end()) match = resume_parked(live(id), best, n_best, usable.size());
  match.sequence = id;
  counts_.count_match(prompt.size(), match.n_tokens, match.miss_reason);
  notes_.match(match.n_tokens, prompt.size() - match.n_tokens, match.miss_reason);
  publish_stats();
  return match;
}

// Gives the sequence the run of a parked text, and the text's first n_tokens.
PrefixMatch ContiguousCache::resume_parked(Sequence& sequence, std::list<Sequence>::iterator parked,
                                           std::size_t n_tokens, std::size_t n_usable) {
  const std::size_t n_parked = parked->tokens.size();
  sequence.tokens = std::move(parked->tokens);
  sequence.blocks = std::move(parked->blocks);
  parked_.erase(parked);
  n_parked_blocks_ -= sequence.blocks.size();
  sequence.tokens.resize(n_tokens);
  const char* reason = n_tokens == n_usable   ? "none"
                       : n_tokens == n_parked ? "shorter"
                                              : "diverged";
  if (sequence.blocks.size() < blocks_for(sequence.max_tokens, block_size_))
    if (const Reservation moved = move_to_longer_run(sequence); !moved.ok)
      reason = moved.reason == "no_memory" ? "no_memory" : "run_too_small";
  return {SequenceId{-1}, sequence.tokens.size(), reason};
}

std::list<ContiguousCache::Sequence>::iterator ContiguousCache::longest_parked(
    std::span<const TokenId> usable, std::size_t& n_best) {
  auto best = parked_.end();
  for (auto it = parked_.begin(); it != parked_.end(); ++it) {
    const std::size_t n = common_prefix(usable, it->tokens);
    if (n <= n_best) continue;
    best = it;
    n_best = n;
  }
  return best;
}

void ContiguousCache::note(CacheEventKind kind, const Sequence& sequence) const {
  if (!sequence.blocks.empty()) notes_(kind, -1, sequence.blocks.front(), sequence.blocks.size());
}

void ContiguousCache::free_run(const Sequence& sequence) {
  if (sequence.blocks.empty()) return;
  free_.release(static_cast<std::size_t>(sequence.blocks.front()), sequence.blocks.size());
  counts_.lifetimes.record(sequence.taken_at, n_groups_ * sequence.blocks.size());
}

void ContiguousCache::evict_oldest() {
  note(CacheEventKind::Evict, parked_.front());
  free_run(parked_.front());
  n_parked_blocks_ -= parked_.front().blocks.size();
  counts_.n_evicted_blocks += n_groups_ * parked_.front().blocks.size();
  parked_.pop_front();
}

Reservation ContiguousCache::give_run(Sequence& sequence) {
  const std::size_t n = blocks_for(sequence.max_tokens, block_size_);
  if (n > n_blocks_) return {false, "no_free_blocks"};
  auto first = free_.allocate(n);
  while (!first && !parked_.empty()) {
    evict_oldest();
    first = free_.allocate(n);
  }
  if (!first) return {false, "no_free_blocks"};
  try {
    sequence.tokens.reserve(n * block_size_);  // decode steps do not allocate
    sequence.blocks.resize(n);
  } catch (const std::bad_alloc&) {
    free_.release(*first, n);
    return {false, "no_memory"};
  }
  sequence.taken_at = BlockLifetimes::Clock::now();
  for (std::size_t i = 0; i < n; ++i) sequence.blocks[i] = static_cast<BlockId>(*first + i);
  note(CacheEventKind::Allocate, sequence);
  return {true, ""};
}

// Without room for a longer run the sequence starts from nothing.
Reservation ContiguousCache::move_to_longer_run(Sequence& sequence) {
  Sequence old{{}, 0, std::exchange(sequence.blocks, {}), sequence.taken_at};
  Reservation room = make_room_for_copies(sequence);
  if (room.ok) room = give_run(sequence);
  if (room.ok) {
    copy_blocks(old.blocks, sequence);
  } else {
    sequence.tokens = std::vector<TokenId>();  // gives its memory back, unlike clear()
    counts_.n_evicted_blocks += n_groups_ * old.blocks.size();
  }
  // Copies come before the next step's writes, so whoever gets the old run cannot spoil them.
  note(room.ok ? CacheEventKind::Free : CacheEventKind::Evict, old);
  free_run(old);
  return room;
}

Reservation ContiguousCache::make_room_for_copies(const Sequence& sequence) {
  try {
    copies_.reserve(copies_.size() + n_groups_ * blocks_for(sequence.tokens.size(), block_size_));
  } catch (const std::bad_alloc&) {
    return {false, "no_memory"};
  }
  return {true, ""};
}

void ContiguousCache::copy_blocks(std::span<const BlockId> from, const Sequence& to) {
  const std::size_t n = blocks_for(to.tokens.size(), block_size_);
  for (std::size_t group = 0; group < n_groups_; ++group)
    for (std::size_t i = 0; i < n; ++i) copies_.push_back({group, from[i], to.blocks[i]});
  counts_.n_copied_blocks += n_groups_ * n;
  notes_(CacheEventKind::Copy, -1, n > 0 ? from.front() : kNoBlock, n);
}

Reservation ContiguousCache::reserve(SequenceId id, std::size_t n_tokens) {
  Sequence& sequence = live(id);
  if (n_tokens > sequence.max_tokens - sequence.tokens.size()) return {false, "sequence_full"};
  if (n_tokens > 0 && sequence.blocks.empty())
    if (Reservation room = give_run(sequence); !room.ok) return room;
  publish_stats();
  return {true, ""};
}

void ContiguousCache::commit(SequenceId id, std::span<const TokenId> tokens) {
  Sequence& sequence = live(id);
  if (sequence.tokens.size() + tokens.size() > sequence.blocks.size() * block_size_)
    throw InvalidArgument("[contiguous_cache] expected tokens to be reserved before commit");
  sequence.tokens.insert(sequence.tokens.end(), tokens.begin(), tokens.end());
}

Fork ContiguousCache::fork(SequenceId id) {
  const Sequence& parent = live(id);
  SequenceId child_id{-1};
  try {
    child_id = open({parent.tokens, parent.max_tokens, {}, {}});
  } catch (const std::bad_alloc&) {
    return {{false, "no_memory"}, child_id};
  }
  Sequence& child = live(child_id);
  Reservation room = make_room_for_copies(child);
  if (room.ok && !child.tokens.empty()) room = give_run(child);
  if (!room.ok) {
    live_.erase(child_id);
    return {room, SequenceId{-1}};
  }
  copy_blocks(parent.blocks, child);
  notes_(CacheEventKind::Fork, -1, kNoBlock, child.tokens.size());
  publish_stats();
  return {room, child_id};
}

std::size_t ContiguousCache::trim(SequenceId id, std::size_t n_tokens) {
  Sequence& sequence = live(id);
  if (n_tokens > sequence.tokens.size())
    throw InvalidArgument("[contiguous_cache] expected to keep at most " +
                          std::to_string(sequence.tokens.size()) + " tokens, got " +
                          std::to_string(n_tokens));
  sequence.tokens.resize(n_tokens);
  return n_tokens;
}

void ContiguousCache::release(SequenceId id) {
  const Sequence& sequence = live(id);
  if (reuse_prefixes_ && !sequence.tokens.empty()) {
    n_parked_blocks_ += sequence.blocks.size();
    note(CacheEventKind::Publish, sequence);
    parked_.splice(parked_.end(), live_.at(id));
  } else {
    note(CacheEventKind::Free, sequence);
    free_run(sequence);
  }
  live_.erase(id);
  publish_stats();
}

SequenceView ContiguousCache::view(SequenceId id) const {
  const Sequence& sequence = live(id);
  SequenceView view{sequence.tokens.size(), BlockTables(n_groups_)};
  for (std::size_t g = 0; g < n_groups_; ++g) view.block_tables[g] = sequence.blocks;
  return view;
}

std::vector<BlockCopy> ContiguousCache::take_copies() { return std::exchange(copies_, {}); }

void ContiguousCache::publish_stats() {
  CacheStats stats = counts_;
  stats.n_blocks = n_groups_ * n_blocks_;
  stats.n_cached_blocks = n_groups_ * n_parked_blocks_;
  stats.n_used_blocks = n_groups_ * (n_blocks_ - free_.n_free() - n_parked_blocks_);
  stats.n_sequences = live_.size();
  stats_.publish(stats);
}

void ContiguousCache::check_invariants() const {
  std::vector<int> owners(n_blocks_, 0);
  std::size_t n_slots = 0;
  auto count = [&](const Sequence& sequence) {
    n_slots += sequence.tokens.capacity();
    if (sequence.tokens.size() > sequence.blocks.size() * block_size_)
      broken("a sequence holds more tokens than its run has slots");
    for (std::size_t i = 0; i < sequence.blocks.size(); ++i) {
      if (sequence.blocks[i] != sequence.blocks[0] + static_cast<BlockId>(i))
        broken("a run is not consecutive");
      ++owners.at(static_cast<std::size_t>(sequence.blocks[i]));
    }
  };
  for (const auto& [id, alone] : live_) count(alone.front());
  std::size_t n_parked = 0;
  for (const auto& sequence : parked_) {
    count(sequence);
    n_parked += sequence.blocks.size();
  }
  if (!bookkeeping_.is_exact()) broken("the ledger was charged wrongly");
  if (n_slots > n_blocks_ * block_size_) broken("texts take more memory than was charged");
  if (n_parked != n_parked_blocks_) broken("the parked count is wrong");
  std::size_t n_free = 0;
  for (const auto& [first, length] : free_.runs()) {
    n_free += length;
    for (std::size_t i = first; i < first + length; ++i) ++owners.at(i);
  }
  if (n_free != free_.n_free()) broken("the free count is wrong");
  if (!std::ranges::all_of(owners, [](int n) { return n == 1; }))
    broken("a block has no owner or more than one");
}

}  // namespace quarrel
