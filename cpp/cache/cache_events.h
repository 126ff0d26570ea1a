// What happens to the blocks of a cache, and when: a log for traces, off unless somebody asks.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string_view>
#include <utility>

#include "cache/block_table.h"
#include "cache/cache_stats.h"
#include "core/ring.h"
#include "core/span_log.h"

namespace quarrel {

enum class CacheEventKind : std::int32_t {
  Allocate,  // blocks were handed out
  Free,      // blocks went back, and hold nothing of use
  Publish,   // a full block can be found by later prompts
  Hit,       // count tokens of a prompt were there
  Miss,      // count tokens of it were not, and why
  Evict,     // cached blocks were given up for room
  LetGo,     // a block left a live sequence's window
  Copy,      // blocks are to be copied, by a fork or before a write
  Fork,      // a sequence of count tokens was forked
  Save,      // count blocks were written to a snapshot
  Load,      // count blocks were taken from a file into the cache
  Restore,   // count blocks were taken from a snapshot into a sequence
};
inline constexpr std::array<std::string_view, 12> kCacheEventNames{
    "allocate", "free", "publish", "hit",  "miss", "evict",
    "let_go",   "copy", "fork",    "save", "load", "restore"};

struct CacheEvent {
  std::int64_t at_ns;  // of SpanLog::now_ns
  CacheEventKind kind;
  std::int32_t group;   // -1: all of them
  std::int32_t block;   // the first; -1: no particular one
  std::int32_t count;   // blocks of the group, or tokens
  std::int32_t reason;  // of a Miss, in kMissReasons; -1: none
};

// Belongs to the engine's thread, like the cache.
class CacheEventLog {
 public:
  // Throws OutOfMemoryError if the ledger refuses.
  CacheEventLog(std::shared_ptr<MemoryLedger> ledger, std::size_t capacity)
      : ledger_(std::move(ledger)), events_(*ledger_, capacity) {}

  void record(const CacheEvent& event) { events_.push(event); }
  const Ring<CacheEvent>& events() const { return events_; }
  void clear() { events_.clear(); }

 private:
  std::shared_ptr<MemoryLedger> ledger_;
  Ring<CacheEvent> events_;
};

// What a cache and its parts write to: a comparison where there is no log.
class CacheNotes {
 public:
  void set_log(std::shared_ptr<CacheEventLog> log) { log_ = std::move(log); }

  // group, block: -1 for all groups and for no particular block.
  void operator()(CacheEventKind kind, std::ptrdiff_t group, BlockId block,
                  std::size_t count = 1) const {
    if (log_) write(kind, group, block, count, -1);
  }
  // A prompt of which so many tokens were there, and so many were not.
  void match(std::size_t n_hit, std::size_t n_missed, std::string_view reason) const {
    if (!log_) return;
    if (n_hit > 0) write(CacheEventKind::Hit, -1, kNoBlock, n_hit, -1);
    const auto index = std::ranges::find(kMissReasons, reason) - kMissReasons.begin();
    write(CacheEventKind::Miss, -1, kNoBlock, n_missed, static_cast<std::int32_t>(index));
  }

 private:
  void write(CacheEventKind kind, std::ptrdiff_t group, BlockId block, std::size_t count,
             std::int32_t reason) const {
    log_->record({SpanLog::now_ns(), kind, static_cast<std::int32_t>(group), block,
                  static_cast<std::int32_t>(count), reason});
  }

  std::shared_ptr<CacheEventLog> log_;
};

}  // namespace quarrel
