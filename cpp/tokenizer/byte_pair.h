// Byte-pair encoding by rank: the GPT-2 family.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string_view>
#include <vector>

#include "core/strings.h"
#include "tokenizer/vocabulary.h"

namespace quarrel {

// Merges pairs by rank inside a piece of text: lowest rank first, leftmost among equals. Source of
// the technique: Sennrich et al. 2016 (arXiv:1508.07909).
class BytePairEncoder {
 public:
  // merges: "left right" in order of rank; the first of two equal ones counts. ignore_merges: a
  // piece that is itself a token stays whole. InvalidArgument for a merge that is malformed or
  // whose parts or whole are no tokens.
  BytePairEncoder(std::shared_ptr<const Vocabulary> vocabulary, const Strings& merges,
                  bool ignore_merges);

  // piece: UTF-8 as the pre-tokenizer cut it, in the vocabulary's alphabet. Characters that are no
  // tokens are left out. Appends to ids.
  void encode(std::string_view piece, std::vector<std::int32_t>& ids) const;

 private:
  struct Merge {
    std::int32_t left;
    std::int32_t right;
    std::int32_t whole;
  };

  std::int32_t token_of(std::string_view part, std::string_view merge) const;
  std::size_t place(std::int32_t left, std::int32_t right) const;  // where it is or would go
  const Merge* find(std::int32_t left, std::int32_t right) const;

  std::shared_ptr<const Vocabulary> vocabulary_;
  bool ignore_merges_;
  std::vector<Merge> merges_;        // by rank
  std::vector<std::int32_t> table_;  // ranks by hash of the pair, linear probing; -1: free
};

}  // namespace quarrel
