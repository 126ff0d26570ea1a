#include "gguf/format_error.h"

#include <cstddef>
#include <string>

#include "core/error.h"
#include "gguf/printable.h"

namespace quarrel::gguf {
namespace {

constexpr std::size_t kMaxPathBytes = 4096;

}  // namespace

void fail_file(std::string_view file, std::string_view problem) {
  throw ModelFormatError(in_quotes(file, kMaxPathBytes) + ": " + std::string(problem));
}

void fail_at(std::string_view file, std::string_view subject, std::uint64_t offset,
             std::string_view problem) {
  std::string place(subject);
  place += " at byte " + std::to_string(offset) + ": ";
  place += problem;
  fail_file(file, place);
}

}  // namespace quarrel::gguf
