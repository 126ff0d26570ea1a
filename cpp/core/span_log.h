// When what ran on which thread, for traces. Memory is taken before; recording takes none, and
// locks nothing.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "core/memory_ledger.h"
#include "core/ring.h"

namespace quarrel {

struct Span {
  std::int64_t start_ns;  // of SpanLog::now_ns
  std::int64_t end_ns;
  std::uint32_t name;     // in SpanLog::names
  std::uint32_t n_items;  // of a loop: how many this thread took; else 0
};

// Each track has one writer: the thread it belongs to. Names and reading belong to the engine's
// thread, between two steps. Spans of a track nest or follow each other.
class SpanLog {
 public:
  using Clock = std::chrono::steady_clock;

  // Throws OutOfMemoryError if the ledger refuses.
  SpanLog(std::shared_ptr<MemoryLedger> ledger, std::size_t n_tracks, std::size_t spans_per_track);
  SpanLog(const SpanLog&) = delete;
  SpanLog& operator=(const SpanLog&) = delete;

  static std::int64_t now_ns() { return in_ns(Clock::now()); }
  static std::int64_t in_ns(Clock::time_point time) {
    return std::chrono::duration_cast<std::chrono::nanoseconds>(time.time_since_epoch()).count();
  }

  // The number of a name, given out when it is first asked for.
  std::uint32_t intern(std::string_view name);
  const std::vector<std::string>& names() const { return names_; }

  void record(std::size_t track, const Span& span) {
    if (track < tracks_.size()) tracks_[track].push(span);
  }
  std::size_t n_tracks() const { return tracks_.size(); }
  const Ring<Span>& track(std::size_t i) const { return tracks_.at(i); }
  void clear();

 private:
  std::shared_ptr<MemoryLedger> ledger_;
  std::vector<Ring<Span>> tracks_;
  std::vector<std::string> names_;
};

// Records its own life on a track; nothing without a log.
class ScopedSpan {
 public:
  ScopedSpan(SpanLog* log, std::size_t track, std::uint32_t name)
      : log_(log), track_(track), name_(name), start_(log != nullptr ? SpanLog::now_ns() : 0) {}
  ~ScopedSpan() {
    if (log_ != nullptr) log_->record(track_, {start_, SpanLog::now_ns(), name_, 0});
  }
  ScopedSpan(const ScopedSpan&) = delete;
  ScopedSpan& operator=(const ScopedSpan&) = delete;

 private:
  SpanLog* log_;
  std::size_t track_;
  std::uint32_t name_;
  std::int64_t start_;
};

}  // namespace quarrel
