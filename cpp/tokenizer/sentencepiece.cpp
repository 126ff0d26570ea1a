#include "tokenizer/sentencepiece.h"

#include <cmath>
#include <queue>
#include <string>
#include <utility>

#include "core/error.h"

namespace quarrel {
namespace {

constexpr std::string_view kSpaceMark = "\xe2\x96\x81";  // U+2581

bool continues(char byte) { return (static_cast<unsigned char>(byte) & 0xc0) == 0x80; }

// The character that ends before `end`, which is not 0.
std::string_view character_before(std::string_view text, std::size_t end) {
  std::size_t begin = end - 1;
  while (begin > 0 && continues(text[begin])) --begin;
  return text.substr(begin, end - begin);
}

std::string with_marks(std::string_view text) {
  std::string marked;
  marked.reserve(text.size() + text.size() / 2);
  for (const char byte : text) {
    if (byte == ' ') {
      marked += kSpaceMark;
    } else {
      marked += byte;
    }
  }
  return marked;
}

// Two neighbours that make a token, as they were when they were found.
struct Candidate {
  float score;
  std::size_t left;
  std::size_t right;
  std::size_t n_bytes;  // of both

  bool operator<(const Candidate& other) const {  // the queue's top is the largest
    return score != other.score ? score < other.score : left > other.left;
  }
};

// A symbol that starts at character i, of no bytes once it was merged into the one before it.
struct Symbol {
  std::size_t begin;
  std::size_t n_bytes;
  std::size_t before;
  std::size_t after;
};

std::vector<Symbol> characters(std::string_view word) {
  std::vector<Symbol> symbols;
  for (std::size_t i = 0; i < word.size(); ++i) {
    if (symbols.empty() || !continues(word[i])) {
      symbols.push_back({i, 1, symbols.size() - 1, symbols.size() + 1});
    } else {
      ++symbols.back().n_bytes;
    }
  }
  return symbols;
}

}  // namespace

SentencePiece::SentencePiece(std::shared_ptr<const Vocabulary> vocabulary,
                             std::vector<float> scores, std::optional<std::int32_t> unknown)
    : vocabulary_(std::move(vocabulary)), scores_(std::move(scores)), unknown_(unknown) {
  if (scores_.size() != vocabulary_->size())
    throw InvalidArgument("[sentencepiece] expected " + std::to_string(vocabulary_->size()) +
                          " scores, got " + std::to_string(scores_.size()));
  for (const float score : scores_)
    if (std::isnan(score)) throw InvalidArgument("[sentencepiece] expected numbers, got NaN");
  glued_.insert(kSpaceMark);
  for (std::size_t id = 0; id < vocabulary_->size(); ++id) {
    const std::string_view piece = vocabulary_->piece(id);
    for (std::size_t at = piece.find(kSpaceMark, 1); at != piece.npos;
         at = piece.find(kSpaceMark, at + 1))
      glued_.insert(character_before(piece, at));
  }
}

std::vector<std::int32_t> SentencePiece::encode(std::string_view text) const {
  const std::string marked = with_marks(text);
  const std::string_view all = marked;
  std::vector<std::int32_t> ids;
  std::size_t begin = 0;
  for (std::size_t at = all.find(kSpaceMark, 1); at < all.size();
       at = all.find(kSpaceMark, at + 1)) {
    if (glued_.contains(character_before(all, at))) continue;
    encode_word(all.substr(begin, at - begin), ids);
    begin = at;
  }
  encode_word(all.substr(begin), ids);
  return ids;
}

void SentencePiece::encode_word(std::string_view word, std::vector<std::int32_t>& ids) const {
  std::vector<Symbol> symbols = characters(word);
  std::priority_queue<Candidate> queue;
  const auto text_of = [&](const Symbol& symbol) {
    return word.substr(symbol.begin, symbol.n_bytes);
  };
  const auto consider = [&](std::size_t left, std::size_t right) {
    const std::size_t n_bytes = symbols[left].n_bytes + symbols[right].n_bytes;
    if (const auto id = vocabulary_->find(word.substr(symbols[left].begin, n_bytes)))
      queue.push({scores_[static_cast<std::size_t>(*id)], left, right, n_bytes});
  };
  for (std::size_t right = 1; right < symbols.size(); ++right) consider(right - 1, right);
  while (!queue.empty()) {
    const Candidate best = queue.top();
    queue.pop();
    Symbol& left = symbols[best.left];
    Symbol& right = symbols[best.right];
    // One of them has changed since, or is no more.
    if (left.n_bytes == 0 || right.n_bytes == 0 || left.n_bytes + right.n_bytes != best.n_bytes)
      continue;
    left.n_bytes = best.n_bytes;
    right.n_bytes = 0;
    left.after = right.after;
    if (left.after < symbols.size()) {
      symbols[left.after].before = best.left;
      consider(best.left, left.after);
    }
    if (left.before < symbols.size()) consider(left.before, best.left);  // none before the first
  }
  for (const Symbol& symbol : symbols) {
    if (symbol.n_bytes == 0) continue;
    if (const auto id = vocabulary_->find(text_of(symbol))) {
      ids.push_back(*id);
    } else {
      add_bytes(text_of(symbol), ids);
    }
  }
}

void SentencePiece::add_bytes(std::string_view symbol, std::vector<std::int32_t>& ids) const {
  constexpr char kDigits[] = "0123456789ABCDEF";
  for (const char c : symbol) {
    const auto byte = static_cast<unsigned char>(c);
    const char name[] = {'<', '0', 'x', kDigits[byte >> 4], kDigits[byte & 15], '>'};
    auto id = vocabulary_->find({name, sizeof name});
    if (!id) id = unknown_;
    if (!id)
      throw InvalidArgument("This model's vocabulary has no token for '" + std::string(symbol) +
                            "' and none for its bytes; remove the character from the text.");
    ids.push_back(*id);
  }
}

}  // namespace quarrel
