#include "cache/paged_cache.h"

#include <algorithm>
#include <new>
#include <numeric>
#include <string>
#include <utility>

#include "cache/layer_groups.h"
#include "cache/planted_fault.h"
#include "core/error.h"

namespace quarrel {
namespace {

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

PagedConfig without_policies(PagedConfig config) {
  config.policies.clear();
  return config;
}

}  // namespace

PagedCache::PagedCache(PagedConfig raw)
    : config_(without_policies(checked(raw))),
      block_size_(raw.block_size),
      reuse_prefixes_(raw.reuse_prefixes),
      most_entries_(std::max(std::ranges::max(raw.n_blocks),
                             blocks_for(raw.limits.max_tokens, raw.block_size))),
      fixed_bytes_(fixed_bytes(raw)),
      bookkeeping_(raw.limits.ledger, fixed_bytes_, reserved_bytes(raw)),
      index_(raw.groups.size(), raw.block_size, raw.fingerprint, index_capacity(raw),
             raw.hash_bits) {
  pools_.reserve(raw.groups.size());
  for (std::size_t g = 0; g < raw.groups.size(); ++g) {
    pools_.emplace_back(g, raw.groups[g], raw.n_blocks[g], raw.policies[g], index_, notes_);
    counts_.n_blocks += raw.n_blocks[g];
  }
  live_.reserve(raw.limits.max_sequences);
  publish_stats();
}

// Where some layer sees everything, live texts hold a block for each of their nodes. Where none
// does, their nodes outlive the blocks that their windows have let go.
std::size_t PagedCache::index_capacity(const PagedConfig& config) {
  if (!config.reuse_prefixes) return 0;
  const std::size_t n_blocks =
      std::accumulate(config.n_blocks.begin(), config.n_blocks.end(), std::size_t{0});
  const bool windowed =
      std::ranges::all_of(config.groups, [](const GroupSpec& spec) { return spec.window != 0; });
  const std::size_t per_text = blocks_for(config.limits.max_tokens, config.block_size);
  return n_blocks + (windowed ? config.limits.max_sequences * per_text : 0);
}

std::size_t PagedCache::sequence_bytes(const PagedConfig& config, std::size_t n_entries) {
  // A node of the map of live sequences: link, cached hash, and its share of the buckets.
  constexpr std::size_t kNode = sizeof(std::pair<SequenceId, Sequence>) + 4 * sizeof(void*);
  const std::size_t text =
      config.reuse_prefixes ? n_entries * sizeof(NodeId) + config.block_size * sizeof(TokenId) : 0;
  return kNode + text + config.groups.size() * (sizeof(Table) + n_entries * sizeof(BlockId));
}

std::size_t PagedCache::reserved_bytes(const PagedConfig& config) {
  return config.limits.max_sequences *
         sequence_bytes(config, blocks_for(config.limits.max_tokens, config.block_size));
}

std::size_t PagedCache::fixed_bytes(const PagedConfig& config) {
  std::size_t bytes =
      PrefixIndex::n_bytes(config.groups.size(), config.block_size, index_capacity(config));
  for (std::size_t g = 0; g < config.groups.size(); ++g)
    bytes += BlockPool::n_bytes(config.n_blocks[g]) +
             (config.policies.empty() ? eviction_policy_bytes(config.n_blocks[g])
                                      : config.policies[g]->n_bytes());
  return bytes;
}

std::size_t PagedCache::bookkeeping_bytes(const PagedConfig& config) {
  return fixed_bytes(config) + reserved_bytes(config);
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

// Throws OutOfMemoryError or std::bad_alloc, and then nothing has changed.
SequenceId PagedCache::open(Sequence sequence, std::size_t min_entries) {
  // Room up front, so that decode steps do not allocate; but not for a max_tokens that no pool
  // could hold.
  std::size_t n = std::max(std::min(blocks_for(sequence.max_tokens, block_size_), most_entries_),
                           std::max(sequence.path.size(), min_entries));
  for (const Table& table : sequence.tables) n = std::max(n, table.blocks.size());
  sequence.memory = Bookkeeping::Share(bookkeeping_, sequence_bytes(config_, 0));
  make_entries(sequence, n);
  if (reuse_prefixes_) sequence.tail.reserve(block_size_);
  const SequenceId id{next_id_};
  live_.emplace(id, std::move(sequence));
  ++next_id_;
  return id;
}

void PagedCache::make_entries(Sequence& sequence, std::size_t n_entries) {
  if (n_entries <= sequence.n_entries) return;
  sequence.memory.grow(sequence_bytes(config_, n_entries));
  for (Table& table : sequence.tables) table.blocks.reserve(n_entries);
  if (reuse_prefixes_) sequence.path.reserve(n_entries);
  sequence.n_entries = n_entries;
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
  const auto usable = usable_prefix(prompt, max_tokens);
  const std::vector<NodeId> known = reuse_prefixes_ ? cached_path(usable) : std::vector<NodeId>{};
  const std::size_t n_held = reuse_prefixes_ ? longest_held(known) : 0;
  Sequence fresh;
  fresh.max_tokens = max_tokens;
  fresh.tables.resize(pools_.size());
  const SequenceId id = open(std::move(fresh), n_held);  // the last that may fail
  adopt(live(id), std::span(known).first(n_held));
  const std::size_t n_tokens = n_held * block_size_;
  const std::string_view reason = why_no_longer(known, n_held, usable);
  counts_.count_match(prompt.size(), n_tokens, reason);
  notes_.match(n_tokens, prompt.size() - n_tokens, reason);
  publish_stats();
  return {id, n_tokens, std::string(reason)};
}

std::string_view PagedCache::why_no_longer(const std::vector<NodeId>& known, std::size_t n_held,
                                           std::span<const TokenId> usable) const {
  if (!reuse_prefixes_) return "disabled";
  const auto rest = usable.subspan(n_held * block_size_);
  if (rest.size() < block_size_) return rest.empty() ? "none" : "partial_block";
  if (n_held < known.size()) return why_lost(known, n_held);
  return why_unknown(known.empty() ? kRootNode : known.back(), rest.first(block_size_));
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
void PagedCache::adopt(Sequence& sequence, std::span<const NodeId> path) {
  sequence.path.assign(path.begin(), path.end());
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

// How far a group's table reaches once n_tokens are reserved.
std::size_t PagedCache::reserved_end(const Sequence& sequence, std::size_t group,
                                     std::size_t n_tokens) const {
  const bool stepwise = config_.max_step_tokens != 0 && pools_[group].spec().window != 0;
  return sequence.n_tokens + (stepwise ? std::min(n_tokens, config_.max_step_tokens) : n_tokens);
}

bool PagedCache::has_room(const Sequence& sequence, std::size_t n_tokens) const {
  for (std::size_t g = 0; g < pools_.size(); ++g) {
    const std::size_t n_entries = sequence.tables[g].blocks.size();
    const std::size_t n_blocks = blocks_for(reserved_end(sequence, g, n_tokens), block_size_);
    const std::size_t wanted = std::max(n_blocks, n_entries) - n_entries;
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
  notes_(CacheEventKind::Copy, static_cast<std::ptrdiff_t>(group), last);
  if (planted(PlantedFault::StaleTableEntry)) return pool.drop(fresh);
  pool.drop(last);
  last = fresh;
}

Reservation PagedCache::reserve(SequenceId id, std::size_t n_tokens) {
  Sequence& sequence = live(id);
  if (n_tokens > sequence.max_tokens - sequence.n_tokens) return {false, "sequence_full"};
  if (n_tokens == 0) return {true, ""};
  if (!has_room(sequence, n_tokens)) return {false, "no_free_blocks"};
  try {
    make_entries(sequence, blocks_for(sequence.n_tokens + n_tokens, block_size_));
    copies_.reserve(copies_.size() + pools_.size());
  } catch (const OutOfMemoryError&) {
    return {false, "no_memory"};
  } catch (const std::bad_alloc&) {
    return {false, "no_memory"};
  }
  std::size_t end = sequence.n_tokens + n_tokens;
  for (std::size_t g = 0; g < pools_.size(); ++g) {
    make_private(sequence, g);
    auto& blocks = sequence.tables[g].blocks;
    const std::size_t group_end = reserved_end(sequence, g, n_tokens);
    while (blocks.size() < blocks_for(group_end, block_size_)) blocks.push_back(pools_[g].take());
    end = std::min(end, group_end);
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
  while (reuse_prefixes_ && sequence.is_text_known && !tokens.empty()) {
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
  const NodeId node = add_node(sequence.tip(), sequence.tail);
  if (node == kNoNode) {
    sequence.is_text_known = false;
    sequence.tail.clear();
    return;
  }
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

// Texts that nobody holds make room in a full index, those that only windows hold first: they may
// hang on a chain of nodes without blocks. kNoNode if that is not enough.
NodeId PagedCache::add_node(NodeId parent, std::span<const TokenId> tokens) {
  NodeId node = index_.find_or_add(parent, tokens);
  for (const bool windowed : {true, false})
    for (BlockPool& pool : pools_)
      while (node == kNoNode && (pool.spec().window != 0) == windowed && pool.evict_one())
        node = index_.find_or_add(parent, tokens);
  return node;
}

void PagedCache::let_go_outside(Sequence& sequence) {
  for (std::size_t g = 0; g < pools_.size(); ++g) {
    if (pools_[g].spec().window == 0) continue;
    Table& table = sequence.tables[g];
    const auto needed = needed_blocks(pools_[g].spec(), block_size_, sequence.n_tokens);
    for (std::size_t b = std::max(table.window_begin, needed.sinks_end); b < needed.window_begin;
         ++b) {
      pools_[g].let_go(std::exchange(table.blocks[b], kNoBlock));
      ++counts_.n_window_blocks;
    }
    table.window_begin = needed.window_begin;
  }
}

// ---- Fork, trim, release ---------------------------------------------------------------------

Fork PagedCache::fork(SequenceId id) {
  Sequence& parent = live(id);
  SequenceId child_id{-1};
  try {
    child_id = open(twin_of(parent));
  } catch (const OutOfMemoryError&) {
    return {{false, "no_memory"}, child_id};
  } catch (const std::bad_alloc&) {
    return {{false, "no_memory"}, child_id};
  }
  parent.n_writable = parent.n_tokens;  // the last block is no longer its own
  index_.hold(parent.tip());
  const Sequence& child = live(child_id);
  for (std::size_t g = 0; g < pools_.size(); ++g) {
    const auto& blocks = child.tables[g].blocks;
    for (std::size_t b = 0; b < blocks.size(); ++b) {
      if (planted(PlantedFault::MissingReference) && b + 1 == blocks.size()) break;
      if (blocks[b] != kNoBlock) pools_[g].acquire(blocks[b]);
    }
  }
  notes_(CacheEventKind::Fork, -1, kNoBlock, parent.n_tokens);
  publish_stats();
  return {{true, ""}, child_id};
}

// The same text in the same blocks, without what is only reserved. Holds nothing yet.
PagedCache::Sequence PagedCache::twin_of(const Sequence& parent) const {
  Sequence child;
  child.n_tokens = child.n_writable = parent.n_tokens;
  child.max_tokens = parent.max_tokens;
  child.path = parent.path;
  child.tail = parent.tail;
  child.is_text_known = parent.is_text_known;
  child.tables = parent.tables;
  for (Table& table : child.tables) table.blocks.resize(blocks_for(child.n_tokens, block_size_));
  return child;
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
  if (n_tokens > sequence.n_tokens)  // the message takes memory
    expect(false, "to keep at most " + std::to_string(sequence.n_tokens) + " tokens, got " +
                      std::to_string(n_tokens));
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
    sequence.is_text_known = true;
  }
  if (!sequence.is_text_known)
    sequence.is_text_known = n_tokens == n_full * block_size_ && n_full == sequence.path.size();
  if (sequence.is_text_known) sequence.tail.resize(n_tokens % block_size_);
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

}  // namespace quarrel
