#include "cache/paged_cache.h"

#include <algorithm>
#include <numeric>
#include <string>
#include <utility>

#include "cache/layer_groups.h"
#include "cache/planted_fault.h"
#include "core/error.h"

namespace quarrel {
namespace {

[[noreturn]] void broken(const std::string& what) {
  throw Error("[paged_cache] invariant broken: " + what);
}

void expect(bool holds, const std::string& message) {
  if (!holds) throw InvalidArgument("[paged_cache] expected " + message);
}

PagedConfig checked(PagedConfig config) {
  const std::size_t n = config.groups.size();
  expect(n > 0 && n <= kMaxLayerGroups,
         "1 to " + std::to_string(kMaxLayerGroups) + " layer groups, got " + std::to_string(n));
  expect(config.block_size > 0, "a block size of at least one token");
  expect(config.n_blocks.size() == n && config.policies.size() == n,
         "a number of blocks and an eviction policy for each layer group");
  expect(std::ranges::all_of(config.n_blocks, [](std::size_t b) { return b > 0; }),
         "at least one block in each layer group");
  return config;
}

}  // namespace

PagedCache::PagedCache(PagedConfig raw)
    : block_size_(checked(raw).block_size),
      reuse_prefixes_(raw.reuse_prefixes),
      index_(raw.groups.size(), raw.block_size, raw.fingerprint,
             std::accumulate(raw.n_blocks.begin(), raw.n_blocks.end(), std::size_t{0}),
             raw.hash_bits) {
  pools_.reserve(raw.groups.size());
  for (std::size_t g = 0; g < raw.groups.size(); ++g) {
    pools_.emplace_back(g, raw.groups[g], raw.n_blocks[g], raw.policies[g], index_);
    counts_.n_blocks += raw.n_blocks[g];
    largest_pool_ = std::max(largest_pool_, raw.n_blocks[g]);
  }
  publish_stats();
}

PagedCache::Sequence& PagedCache::live(SequenceId id) {
  return const_cast<Sequence&>(std::as_const(*this).live(id));
}

const PagedCache::Sequence& PagedCache::live(SequenceId id) const {
  const auto found = live_.find(id);
  if (found == live_.end())
    throw InvalidArgument("[paged_cache] expected a live sequence, got " +
                          std::to_string(static_cast<std::int64_t>(id)));
  return found->second;
}

SequenceId PagedCache::open(Sequence sequence) {
  const SequenceId id{next_id_++};
  // Room up front, so that decode steps do not allocate; but not for a max_tokens that no pool
  // could hold.
  const std::size_t n = std::min(blocks_for(sequence.max_tokens, block_size_), largest_pool_);
  for (Table& table : sequence.tables) table.blocks.reserve(n);
  if (reuse_prefixes_) {
    sequence.path.reserve(n);
    sequence.tail.reserve(block_size_);
  }
  live_.emplace(id, std::move(sequence));
  return id;
}

void PagedCache::publish_stats() {
  CacheStats stats = counts_;
  stats.n_sequences = live_.size();
  stats.n_used_blocks = stats.n_blocks;
  for (const BlockPool& pool : pools_) {
    stats.n_cached_blocks += pool.n_cached();
    stats.n_used_blocks -= pool.n_available();
    stats.n_evicted_blocks += pool.n_evicted();
    stats.lifetimes.add(pool.lifetimes());
  }
  stats_.publish(stats);
}

// ---- Prefixes --------------------------------------------------------------------------------

PrefixMatch PagedCache::match_prefix(std::span<const TokenId> prompt, std::size_t max_tokens) {
  Sequence sequence;
  sequence.max_tokens = max_tokens;
  sequence.tables.resize(pools_.size());
  std::vector<NodeId> held;
  std::string_view reason = "disabled";
  if (reuse_prefixes_) {
    const auto usable = usable_prefix(prompt, max_tokens);
    const std::vector<NodeId> known = cached_path(usable);
    const std::size_t n_held = longest_held(known);
    const auto rest = usable.subspan(n_held * block_size_);
    if (rest.size() < block_size_) {
      reason = rest.empty() ? "none" : "partial_block";
    } else if (n_held < known.size()) {
      reason = why_lost(known, n_held);
    } else {
      reason = why_unknown(known.empty() ? kRootNode : known.back(), rest.first(block_size_));
    }
    held.assign(known.begin(), known.begin() + static_cast<std::ptrdiff_t>(n_held));
  }
  adopt(sequence, held);
  const std::size_t n_tokens = sequence.n_tokens;
  counts_.count_match(prompt.size(), n_tokens, reason);
  const SequenceId id = open(std::move(sequence));
  publish_stats();
  return {id, n_tokens, std::string(reason)};
}

// The nodes of the text's full blocks, as far as the index knows it.
std::vector<NodeId> PagedCache::cached_path(std::span<const TokenId> usable) const {
  std::vector<NodeId> path;
  NodeId node = kRootNode;
  for (; usable.size() >= block_size_; usable = usable.subspan(block_size_)) {
    node = index_.find(node, usable.first(block_size_));
    if (node == kNoNode) break;
    path.push_back(node);
  }
  return path;
}

bool PagedCache::all_hold(const std::vector<NodeId>& path, std::size_t n_blocks) const {
  for (std::size_t g = 0; g < pools_.size(); ++g) {
    const auto needed = needed_blocks(pools_[g].spec(), block_size_, n_blocks * block_size_);
    if (!all_needed(needed, [&](std::size_t b) { return index_.block(path[b], g) != kNoBlock; }))
      return false;
  }
  return true;
}

std::size_t PagedCache::longest_held(const std::vector<NodeId>& path) const {
  std::size_t n = path.size();
  // Groups that keep everything first: they say at once how far any resume point can lie.
  for (std::size_t g = 0; g < pools_.size(); ++g) {
    if (pools_[g].spec().window != 0) continue;
    std::size_t held = 0;
    while (held < n && index_.block(path[held], g) != kNoBlock) ++held;
    n = held;
  }
  while (n > 0 && !all_hold(path, n)) --n;
  return n;
}

std::string_view PagedCache::why_lost(const std::vector<NodeId>& path, std::size_t n_held) const {
  for (std::size_t g = 0; g < pools_.size(); ++g)
    if (pools_[g].spec().window == 0 && index_.block(path[n_held], g) == kNoBlock) return "evicted";
  return "window_lost";
}

std::string_view PagedCache::why_unknown(NodeId last, std::span<const TokenId> next) const {
  if (index_.was_removed(last, next)) return "evicted";
  if (index_.n_nodes() == 1) return "empty";
  return index_.has_children(last) ? "diverged" : "shorter";
}

// Makes a new sequence hold a cached text.
void PagedCache::adopt(Sequence& sequence, const std::vector<NodeId>& path) {
  sequence.path = path;
  sequence.n_tokens = sequence.n_writable = path.size() * block_size_;
  index_.hold(sequence.tip());
  for (std::size_t g = 0; g < pools_.size(); ++g) {
    Table& table = sequence.tables[g];
    table.blocks.assign(path.size(), kNoBlock);
    const auto needed = needed_blocks(pools_[g].spec(), block_size_, sequence.n_tokens);
    table.window_begin = needed.window_begin;
    all_needed(needed, [&](std::size_t b) {
      table.blocks[b] = index_.block(path[b], g);
      pools_[g].reuse(table.blocks[b]);
      return true;
    });
  }
}

// ---- Growing ---------------------------------------------------------------------------------

// Whether the partly filled last block must move before this sequence may write into it.
bool PagedCache::needs_copy(const Sequence& sequence, std::size_t group) const {
  if (sequence.n_tokens % block_size_ == 0) return false;
  const BlockPool& pool = pools_[group];
  const BlockId last = sequence.tables[group].blocks[sequence.n_tokens / block_size_];
  return !pool.exclusive(last) && !(pool.published(last) && pool.can_unpublish(last));
}

bool PagedCache::has_room(const Sequence& sequence, std::size_t end) const {
  for (std::size_t g = 0; g < pools_.size(); ++g) {
    const std::size_t n_entries = sequence.tables[g].blocks.size();
    const std::size_t wanted = std::max(blocks_for(end, block_size_), n_entries) - n_entries;
    if (wanted + needs_copy(sequence, g) > pools_[g].n_available()) return false;
  }
  return true;
}

void PagedCache::make_private(Sequence& sequence, std::size_t group) {
  if (sequence.n_tokens % block_size_ == 0) return;
  BlockPool& pool = pools_[group];
  BlockId& last = sequence.tables[group].blocks[sequence.n_tokens / block_size_];
  if (pool.exclusive(last)) return;
  if (!needs_copy(sequence, group)) {
    pool.unpublish(last);
    return;
  }
  const BlockId fresh = pool.take();
  copies_.push_back({group, last, fresh});
  ++counts_.n_copied_blocks;
  if (planted(PlantedFault::StaleTableEntry)) return pool.drop(fresh);
  pool.drop(last);
  last = fresh;
}

Reservation PagedCache::reserve(SequenceId id, std::size_t n_tokens) {
  Sequence& sequence = live(id);
  if (n_tokens > sequence.max_tokens - sequence.n_tokens) return {false, "sequence_full"};
  if (n_tokens == 0) return {true, ""};
  const std::size_t end = sequence.n_tokens + n_tokens;
  if (!has_room(sequence, end)) return {false, "no_free_blocks"};
  for (std::size_t g = 0; g < pools_.size(); ++g) {
    make_private(sequence, g);
    auto& blocks = sequence.tables[g].blocks;
    while (blocks.size() < blocks_for(end, block_size_)) blocks.push_back(pools_[g].take());
  }
  sequence.n_writable = std::max(sequence.n_writable, end);
  publish_stats();
  return {true, ""};
}

void PagedCache::commit(SequenceId id, std::span<const TokenId> tokens) {
  Sequence& sequence = live(id);
  if (sequence.n_tokens + tokens.size() > sequence.n_writable)
    throw InvalidArgument("[paged_cache] expected tokens to be reserved before commit");
  sequence.n_tokens += tokens.size();
  while (reuse_prefixes_ && !tokens.empty()) {
    const std::size_t n = std::min(tokens.size(), block_size_ - sequence.tail.size());
    const auto part = tokens.first(n);
    sequence.tail.insert(sequence.tail.end(), part.begin(), part.end());
    tokens = tokens.subspan(n);
    if (sequence.tail.size() == block_size_) publish_tail(sequence);
  }
  let_go_outside(sequence);
  publish_stats();
}

// The tail has filled its block: others may share it from now on. If another sequence has
// published the same text meanwhile, its block, which holds the same bits, takes our block's place.
void PagedCache::publish_tail(Sequence& sequence) {
  const std::size_t at = sequence.path.size();
  const NodeId node = index_.find_or_add(sequence.tip(), sequence.tail);
  for (std::size_t g = 0; g < pools_.size(); ++g) {
    BlockId& ours = sequence.tables[g].blocks[at];
    const BlockId theirs = index_.block(node, g);
    if (theirs == kNoBlock) {
      pools_[g].publish(ours, node);
    } else {
      pools_[g].acquire(theirs);
      pools_[g].drop(std::exchange(ours, theirs));
    }
  }
  index_.hold(node);
  index_.let_go(sequence.tip());
  sequence.path.push_back(node);
  sequence.tail.clear();
}

void PagedCache::let_go_outside(Sequence& sequence) {
  for (std::size_t g = 0; g < pools_.size(); ++g) {
    if (pools_[g].spec().window == 0) continue;
    Table& table = sequence.tables[g];
    const auto needed = needed_blocks(pools_[g].spec(), block_size_, sequence.n_tokens);
    for (std::size_t b = std::max(table.window_begin, needed.sinks_end); b < needed.window_begin;
         ++b) {
      pools_[g].drop(std::exchange(table.blocks[b], kNoBlock));
      ++counts_.n_window_blocks;
    }
    table.window_begin = needed.window_begin;
  }
}

// ---- Fork, trim, release ---------------------------------------------------------------------

Fork PagedCache::fork(SequenceId id) {
  Sequence& parent = live(id);
  parent.n_writable = parent.n_tokens;  // the last block is no longer its own
  Sequence child = parent;
  index_.hold(child.tip());
  const std::size_t n = blocks_for(child.n_tokens, block_size_);
  for (std::size_t g = 0; g < pools_.size(); ++g) {
    auto& blocks = child.tables[g].blocks;
    blocks.resize(n);
    for (std::size_t b = 0; b < n; ++b) {
      if (planted(PlantedFault::MissingReference) && b + 1 == n) break;
      if (blocks[b] != kNoBlock) pools_[g].acquire(blocks[b]);
    }
  }
  const SequenceId child_id = open(std::move(child));
  publish_stats();
  return {{true, ""}, child_id};
}

// Whether every group has, or can get back from the cache, what position n_tokens needs.
bool PagedCache::can_resume(const Sequence& sequence, std::size_t n_tokens) const {
  for (std::size_t g = 0; g < pools_.size(); ++g) {
    const auto& blocks = sequence.tables[g].blocks;
    const auto held = [&](std::size_t b) {
      if (blocks[b] != kNoBlock) return true;
      return b < sequence.path.size() && index_.block(sequence.path[b], g) != kNoBlock;
    };
    if (!all_needed(needed_blocks(pools_[g].spec(), block_size_, n_tokens), held)) return false;
  }
  return true;
}

std::size_t PagedCache::trim(SequenceId id, std::size_t n_tokens) {
  Sequence& sequence = live(id);
  expect(n_tokens <= sequence.n_tokens, "to keep at most " + std::to_string(sequence.n_tokens) +
                                            " tokens, got " + std::to_string(n_tokens));
  while (n_tokens > 0 && !can_resume(sequence, n_tokens))
    n_tokens = (n_tokens - 1) / block_size_ * block_size_;
  for (std::size_t g = 0; g < pools_.size(); ++g) cut_table(sequence, g, n_tokens);
  if (reuse_prefixes_) cut_text(sequence, n_tokens);
  sequence.n_tokens = sequence.n_writable = n_tokens;
  publish_stats();
  return n_tokens;
}

// Gets back what the window had let go and needs again, and gives up what lies behind.
void PagedCache::cut_table(Sequence& sequence, std::size_t group, std::size_t n_tokens) {
  Table& table = sequence.tables[group];
  BlockPool& pool = pools_[group];
  const auto needed = needed_blocks(pool.spec(), block_size_, n_tokens);
  all_needed(needed, [&](std::size_t b) {
    if (table.blocks[b] != kNoBlock) return true;
    table.blocks[b] = index_.block(sequence.path[b], group);
    pool.acquire(table.blocks[b]);
    return true;
  });
  const std::size_t keep =
      planted(PlantedFault::TrimOffByOne) ? n_tokens / block_size_ : needed.end;
  while (table.blocks.size() > keep) {
    if (table.blocks.back() != kNoBlock) pool.drop(table.blocks.back());
    table.blocks.pop_back();
  }
  table.window_begin = needed.window_begin;
}

void PagedCache::cut_text(Sequence& sequence, std::size_t n_tokens) {
  const std::size_t n_full = n_tokens / block_size_;
  if (n_full < sequence.path.size()) {
    const auto tokens = index_.tokens(sequence.path[n_full]);
    sequence.tail.assign(tokens.begin(), tokens.end());
    const NodeId old_tip = sequence.tip();
    sequence.path.resize(n_full);
    index_.hold(sequence.tip());
    index_.let_go(old_tip);
  }
  sequence.tail.resize(n_tokens % block_size_);
}

void PagedCache::release(SequenceId id) {
  Sequence& sequence = live(id);
  for (std::size_t g = 0; g < pools_.size(); ++g) {
    auto& blocks = sequence.tables[g].blocks;
    for (; !blocks.empty(); blocks.pop_back())
      if (blocks.back() != kNoBlock) pools_[g].drop(blocks.back());
  }
  index_.let_go(sequence.tip());
  live_.erase(id);
  publish_stats();
}

SequenceView PagedCache::view(SequenceId id) const {
  const Sequence& sequence = live(id);
  SequenceView view{sequence.n_tokens, BlockTables(pools_.size())};
  for (std::size_t g = 0; g < pools_.size(); ++g) view.block_tables[g] = sequence.tables[g].blocks;
  return view;
}

std::vector<BlockCopy> PagedCache::take_copies() { return std::exchange(copies_, {}); }

// ---- Invariants ------------------------------------------------------------------------------

void PagedCache::check_sequence(const Sequence& s) const {
  const std::size_t n_full = s.n_tokens / block_size_;
  if (s.n_tokens > s.n_writable || s.n_writable > std::max(s.max_tokens, s.n_tokens))
    broken("a sequence may write where it must not");
  if (reuse_prefixes_ && (s.path.size() != n_full || s.tail.size() != s.n_tokens % block_size_))
    broken("a sequence has lost its text");
  for (std::size_t i = 0; i < s.path.size(); ++i)
    if (index_.parent(s.path[i]) != (i == 0 ? kRootNode : s.path[i - 1]))
      broken("a sequence's text is not one chain");
  for (std::size_t g = 0; g < pools_.size(); ++g) {
    const auto& blocks = s.tables[g].blocks;
    if (blocks.size() < blocks_for(s.n_writable, block_size_)) broken("a block table is too short");
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
  for (std::size_t g = 0; g < pools_.size(); ++g) {
    std::vector<std::uint32_t> holders(pools_[g].n_blocks(), 0);
    for (const auto& [id, sequence] : live_)
      for (const BlockId block : sequence.tables[g].blocks)
        if (block != kNoBlock) ++holders[static_cast<std::size_t>(block)];
    pools_[g].check_invariants(holders);
  }
}

}  // namespace quarrel
