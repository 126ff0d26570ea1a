// Models split over several files: names and the keys that describe them. Internal to the reader.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string_view>

#include "gguf/metadata.h"

namespace quarrel::gguf {

// What a file says about its place: `number` from 0, of `count` files that hold `n_tensors`
// together. A file that says nothing is number 0 of 1.
struct SplitPlace {
  std::uint64_t number = 0;
  std::uint64_t count = 1;
  std::optional<std::uint64_t> n_tensors;
};

// From the keys split.no, split.count and split.tensors.count; ModelFormatError, naming `file`,
// when they are no unsigned integers or contradict each other.
SplitPlace read_split_place(const Metadata& metadata, std::string_view file);

// The path of file `number`, beside `path`, which is file `place.number`. ModelFormatError when
// `path` is not named as such a file must be: NAME-00001-of-00003.gguf.
std::filesystem::path split_sibling(const std::filesystem::path& path, const SplitPlace& place,
                                    std::uint64_t number);

}  // namespace quarrel::gguf
