#include "gguf/byte_reader.h"

#include "gguf/format_error.h"
#include "gguf/printable.h"

namespace quarrel::gguf {
std::span<const std::byte> ByteReader::take(std::uint64_t n_bytes, std::string_view field) {
  if (n_bytes > remaining())
    fail("expected " + std::to_string(n_bytes) + " bytes for its " + std::string(field) + ", got " +
         std::to_string(remaining()) + " to the end of the file; it is truncated or damaged, " +
         "fetch it again");
  const auto taken = bytes_.subspan(position_, n_bytes);
  position_ += n_bytes;
  return taken;
}

std::string_view ByteReader::read_string(std::string_view field) {
  const auto length = read<std::uint64_t>(field);
  const auto bytes = take(length, field);
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

void ByteReader::expect_room(std::uint64_t count, std::uint64_t min_bytes_each,
                             std::string_view field) {
  if (count > remaining() / min_bytes_each)
    fail("claims " + std::to_string(count) + " " + std::string(field) + ", but only " +
         std::to_string(remaining()) + " bytes follow; the file is truncated or damaged, " +
         "fetch it again");
}

void ByteReader::fail(std::string_view problem, std::uint64_t offset) const {
  std::string subject = kind_;
  if (!name_.empty()) subject += " " + in_quotes(name_);
  fail_at(file_, subject, offset, problem);
}

}  // namespace quarrel::gguf
