// The tokens that penalties look back on: the last N of a request, or all of them, with counts.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace quarrel {

struct TokenCount {
  std::int32_t id;
  std::uint32_t count;
};

class TokenHistory {
 public:
  // window: how many of the last tokens are counted; 0 counts none, -1 all.
  explicit TokenHistory(std::int64_t window) : window_(window) {}

  void accept(std::int32_t token_id);

  // The distinct tokens inside the window, ascending ids.
  std::span<const TokenCount> counts() const { return counts_; }

 private:
  void add(std::int32_t token_id);
  void remove(std::int32_t token_id);

  std::int64_t window_;
  std::vector<std::int32_t> ring_;  // grows to window_ tokens, then the oldest is overwritten
  std::size_t oldest_ = 0;
  std::vector<TokenCount> counts_;
};

}  // namespace quarrel
