// The pieces of a tokenizer: id to bytes and back, in about 12 bytes per token beside the bytes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string_view>
#include <vector>

#include "core/strings.h"

namespace quarrel {

class Vocabulary {
 public:
  // pieces: distinct or not, see duplicate(); empty piece I, a padding row of the embedding matrix,
  // is called [EMPTY_I]. types: one per piece, numbers of the file format. InvalidArgument when the
  // two differ in length.
  Vocabulary(Strings pieces, std::vector<std::uint8_t> types);

  std::size_t size() const { return pieces_.size(); }
  std::string_view piece(std::size_t id) const { return pieces_[id]; }
  // Of equal pieces, the first.
  std::optional<std::int32_t> find(std::string_view piece) const;
  // The first piece that comes again.
  std::optional<std::int32_t> duplicate() const { return duplicate_; }

  std::uint8_t type(std::size_t id) const { return types_[id]; }
  void set_type(std::size_t id, std::uint8_t type) { types_[id] = type; }

 private:
  std::size_t place(std::string_view piece) const;  // where it is or would go

  Strings pieces_;
  std::vector<std::uint8_t> types_;
  std::vector<std::int32_t> table_;  // ids by hash, linear probing; -1: free
  std::optional<std::int32_t> duplicate_;
};

}  // namespace quarrel
