// Parses one GGUF file. Internal to the reader: ModelFile is what others use.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "gguf/metadata.h"
#include "gguf/model_file.h"

namespace quarrel::gguf {

struct ParsedPart {
  std::uint32_t version;
  Metadata metadata;
  std::vector<TensorInfo> tensors;
};

// Everything but what only shows over several files is checked here: all bounds, types, alignment,
// duplicate keys, tensors that overlap. Never allocates more than a small multiple of the bytes
// that are really there. `file` is the name for errors; `split` goes into the tensors.
ParsedPart parse_part(std::span<const std::byte> bytes, std::string_view file, int split);

}  // namespace quarrel::gguf
