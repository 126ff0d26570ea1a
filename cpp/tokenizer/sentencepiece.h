// SentencePiece-style BPE: the LLaMA 2, Mistral and Gemma family.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string_view>
#include <unordered_set>
#include <vector>

#include "tokenizer/vocabulary.h"

namespace quarrel {

// Merges neighbours while they make a token: best score first, leftmost among equals. What is no
// token in the end falls back to byte tokens ("<0x0A>"). Source of the technique: Kudo and
// Richardson 2018 (arXiv:1808.06226), in the greedy form that llama.cpp gives it.
class SentencePiece {
 public:
  // scores: one per token. unknown: stands in for missing byte tokens. InvalidArgument when a score
  // is NaN or their number is wrong.
  SentencePiece(std::shared_ptr<const Vocabulary> vocabulary, std::vector<float> scores,
                std::optional<std::int32_t> unknown);

  // text: UTF-8 without special tokens. InvalidArgument for a character that has neither a piece
  // nor byte tokens.
  std::vector<std::int32_t> encode(std::string_view text) const;

 private:
  void encode_word(std::string_view word, std::vector<std::int32_t>& ids) const;
  void add_bytes(std::string_view symbol, std::vector<std::int32_t>& ids) const;

  std::shared_ptr<const Vocabulary> vocabulary_;
  std::vector<float> scores_;
  std::optional<std::int32_t> unknown_;
  // Characters that some piece has before an inner space mark. Behind any other character no merge
  // reaches across the mark, so that text can be cut there.
  std::unordered_set<std::string_view> glued_;
};

}  // namespace quarrel
