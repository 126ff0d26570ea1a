// The one shape of every error about a model file.
#pragma once

#include <cstdint>
#include <string_view>

namespace quarrel::gguf {

// Throws ModelFormatError: "FILE": PROBLEM. The problem reads on from the file's name.
[[noreturn]] void fail_file(std::string_view file, std::string_view problem);

// Throws ModelFormatError: "FILE": SUBJECT at byte OFFSET: PROBLEM.
[[noreturn]] void fail_at(std::string_view file, std::string_view subject, std::uint64_t offset,
                          std::string_view problem);

}  // namespace quarrel::gguf
