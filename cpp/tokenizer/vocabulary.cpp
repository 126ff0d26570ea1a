#include "tokenizer/vocabulary.h"

#include <algorithm>
#include <bit>
#include <functional>
#include <string>
#include <utility>

#include "core/error.h"

namespace quarrel {
namespace {

constexpr std::int32_t kFree = -1;

Strings without_empty(Strings pieces) {
  std::size_t n_empty = 0;
  for (std::size_t id = 0; id < pieces.size(); ++id) n_empty += pieces[id].empty();
  if (n_empty == 0) return pieces;
  Strings named;
  for (std::size_t id = 0; id < pieces.size(); ++id)
    named.push_back(pieces[id].empty() ? "[EMPTY_" + std::to_string(id) + "]"
                                       : std::string(pieces[id]));
  return named;
}

}  // namespace

Vocabulary::Vocabulary(Strings pieces, std::vector<std::uint8_t> types)
    : pieces_(without_empty(std::move(pieces))), types_(std::move(types)) {
  if (types_.size() != pieces_.size())
    throw InvalidArgument("[vocabulary] expected a type for each of " +
                          std::to_string(pieces_.size()) + " pieces, got " +
                          std::to_string(types_.size()));
  table_.assign(std::bit_ceil(2 * pieces_.size() + 1), kFree);
  for (std::size_t id = 0; id < pieces_.size(); ++id) {
    std::int32_t& entry = table_[place(pieces_[id])];
    if (entry == kFree) {
      entry = static_cast<std::int32_t>(id);
    } else {
      duplicate_ = std::min(duplicate_.value_or(entry), entry);
    }
  }
}

std::size_t Vocabulary::place(std::string_view piece) const {
  const std::size_t mask = table_.size() - 1;
  std::size_t at = std::hash<std::string_view>{}(piece)&mask;
  while (table_[at] != kFree && pieces_[static_cast<std::size_t>(table_[at])] != piece)
    at = (at + 1) & mask;
  return at;
}

std::optional<std::int32_t> Vocabulary::find(std::string_view piece) const {
  const std::int32_t id = table_[place(piece)];
  return id == kFree ? std::nullopt : std::optional(id);
}

}  // namespace quarrel
