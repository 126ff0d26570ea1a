#include "tokenizer/byte_pair.h"

#include <bit>
#include <queue>
#include <string>
#include <utility>

#include "core/error.h"

namespace quarrel {
namespace {

constexpr std::int32_t kFree = -1;
constexpr std::size_t kNone = static_cast<std::size_t>(-1);

// A pair that can be merged, as it was when it was found.
struct Candidate {
  std::int32_t rank;
  std::int32_t whole;
  std::size_t left;

  bool operator<(const Candidate& other) const {  // the queue's top is the largest
    return rank != other.rank ? rank > other.rank : left > other.left;
  }
};

struct Symbol {
  std::int32_t id;  // kFree once it was merged into the one before it
  std::size_t before;
  std::size_t after;
};

std::size_t character_bytes(std::string_view text) {
  std::size_t n = 1;
  while (n < text.size() && (static_cast<unsigned char>(text[n]) & 0xc0) == 0x80) ++n;
  return n;
}

std::vector<Symbol> characters(const Vocabulary& vocabulary, std::string_view piece) {
  std::vector<Symbol> symbols;
  while (!piece.empty()) {
    const std::size_t n = character_bytes(piece);
    if (const auto id = vocabulary.find(piece.substr(0, n)))
      symbols.push_back({*id, symbols.size() - 1, symbols.size() + 1});
    piece.remove_prefix(n);
  }
  if (!symbols.empty()) symbols.back().after = kNone;
  return symbols;
}

}  // namespace

BytePairEncoder::BytePairEncoder(std::shared_ptr<const Vocabulary> vocabulary,
                                 const Strings& merges, bool ignore_merges)
    : vocabulary_(std::move(vocabulary)), ignore_merges_(ignore_merges) {
  merges_.reserve(merges.size());
  table_.assign(std::bit_ceil(2 * merges.size() + 1), kFree);
  for (std::size_t rank = 0; rank < merges.size(); ++rank) {
    const std::string_view line = merges[rank];
    // A piece is never empty, so a space in front belongs to the left piece.
    const std::size_t cut = line.find(' ', 1);
    if (cut == line.npos || cut + 1 == line.size())
      throw InvalidArgument("tokenizer.ggml.merges[" + std::to_string(rank) + "] is '" +
                            std::string(line) + "', not two pieces with a space between");
    const std::string_view left = line.substr(0, cut), right = line.substr(cut + 1);
    const Merge merge{token_of(left, line), token_of(right, line),
                      token_of(std::string(left).append(right), line)};
    std::int32_t& entry = table_[place(merge.left, merge.right)];
    if (entry == kFree) entry = static_cast<std::int32_t>(rank);
    merges_.push_back(merge);
  }
}

std::int32_t BytePairEncoder::token_of(std::string_view part, std::string_view merge) const {
  if (const auto id = vocabulary_->find(part)) return *id;
  throw InvalidArgument("tokenizer.ggml.merges does not fit the vocabulary ('" + std::string(part) +
                        "' of '" + std::string(merge) + "' is no token)");
}

std::size_t BytePairEncoder::place(std::int32_t left, std::int32_t right) const {
  const std::size_t mask = table_.size() - 1;
  // Fibonacci hashing (Knuth, The Art of Computer Programming, volume 3) of the two ids together.
  const std::uint64_t pair =
      static_cast<std::uint64_t>(left) << 32 | static_cast<std::uint32_t>(right);
  std::size_t at = (pair * 0x9e3779b97f4a7c15) >> 32 & mask;
  for (; table_[at] != kFree; at = (at + 1) & mask) {
    const Merge& merge = merges_[static_cast<std::size_t>(table_[at])];
    if (merge.left == left && merge.right == right) break;
  }
  return at;
}

const BytePairEncoder::Merge* BytePairEncoder::find(std::int32_t left, std::int32_t right) const {
  const std::int32_t rank = table_[place(left, right)];
  return rank == kFree ? nullptr : &merges_[static_cast<std::size_t>(rank)];
}

void BytePairEncoder::encode(std::string_view piece, std::vector<std::int32_t>& ids) const {
  if (ignore_merges_) {
    if (const auto id = vocabulary_->find(piece)) {
      ids.push_back(*id);
      return;
    }
  }
  std::vector<Symbol> symbols = characters(*vocabulary_, piece);
  std::priority_queue<Candidate> queue;
  const auto consider = [&](std::size_t left) {
    const std::size_t right = symbols[left].after;
    if (right == kNone) return;
    if (const Merge* merge = find(symbols[left].id, symbols[right].id))
      queue.push({static_cast<std::int32_t>(merge - merges_.data()), merge->whole, left});
  };
  for (std::size_t left = 0; left < symbols.size(); ++left) consider(left);
  while (!queue.empty()) {
    const Candidate best = queue.top();
    queue.pop();
    Symbol& left = symbols[best.left];
    if (left.id == kFree || left.after == kNone) continue;
    Symbol& right = symbols[left.after];
    const Merge* merge = find(left.id, right.id);
    if (merge == nullptr || merge->whole != best.whole) continue;  // they have changed since
    left.id = best.whole;
    right.id = kFree;
    left.after = right.after;
    if (left.after != kNone) symbols[left.after].before = best.left;
    consider(best.left);
    if (left.before != kNone) consider(left.before);
  }
  for (const Symbol& symbol : symbols)
    if (symbol.id != kFree) ids.push_back(symbol.id);
}

}  // namespace quarrel
