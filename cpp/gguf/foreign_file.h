// Recognises what a file that is not GGUF probably is.
#pragma once

#include <cstddef>
#include <span>
#include <string>

namespace quarrel::gguf {

// What the bytes look like and what to do about it, as the rest of a sentence that starts with the
// file's name: "is a Git LFS pointer, not the model; run `git lfs pull`".
std::string describe_foreign(std::span<const std::byte> bytes);

}  // namespace quarrel::gguf
