// Text from a file that nobody vouches for, made fit for an error message.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace quarrel::gguf {

// `text` between double quotes: valid UTF-8 stays, control characters, quotes and invalid bytes
// become \xNN, and what exceeds `max_bytes` of input is replaced by "...". The result is always
// valid UTF-8.
std::string in_quotes(std::string_view text, std::size_t max_bytes = 100);

}  // namespace quarrel::gguf
