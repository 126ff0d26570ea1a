#include "gguf/foreign_file.h"

#include <algorithm>
#include <cctype>
#include <cstdint>
#include <cstring>
#include <string_view>

namespace quarrel::gguf {
namespace {

using std::string_view_literals::operator""sv;

struct Signature {
  std::string_view start;
  std::string_view description;
};

// In lower case, because HTML may be written either way and the file's start is lowered first.
constexpr Signature kSignatures[] = {
    {"version https://git-lfs"sv, "is a Git LFS pointer, not the model; run `git lfs pull`"},
    {"<!doctype"sv, "is a web page, not a model; the download went wrong, fetch it again"},
    {"<html"sv, "is a web page, not a model; the download went wrong, fetch it again"},
    {"pk\x03\x04"sv,
     "is a zip archive, perhaps a PyTorch checkpoint; unpack it or convert the model to GGUF"},
    {"\x80\x02"sv, "is a Python pickle, perhaps a PyTorch checkpoint; convert the model to GGUF"},
    {"\x80\x04"sv, "is a Python pickle, perhaps a PyTorch checkpoint; convert the model to GGUF"},
    {"\x1f\x8b"sv, "is a gzip archive; unpack it first"},
    {"\x28\xb5\x2f\xfd"sv, "is a zstd archive; unpack it first"},
    {"lmgg"sv, "is a model in the GGML format that came before GGUF; fetch a GGUF version"},
    {"fmgg"sv, "is a model in the GGMF format that came before GGUF; fetch a GGUF version"},
    {"tjgg"sv, "is a model in the GGJT format that came before GGUF; fetch a GGUF version"},
};

bool is_safetensors(std::span<const std::byte> bytes) {
  std::uint64_t header_bytes;
  if (bytes.size() < 9 || bytes[8] != std::byte{'{'}) return false;
  std::memcpy(&header_bytes, bytes.data(), sizeof header_bytes);
  return header_bytes <= bytes.size() - 8;
}

}  // namespace

std::string describe_foreign(std::span<const std::byte> bytes) {
  std::string start;
  for (const std::byte byte : bytes.first(std::min<std::size_t>(bytes.size(), 64)))
    start += static_cast<char>(std::tolower(static_cast<unsigned char>(byte)));
  const std::string_view text(start);
  const std::string_view stripped =
      text.substr(std::min(text.find_first_not_of(" \t\r\n"), text.size()));
  for (const Signature& signature : kSignatures)
    if (stripped.starts_with(signature.start)) return std::string(signature.description);
  if (is_safetensors(bytes)) return "is a safetensors file; convert the model to GGUF";
  if (stripped.starts_with("{")) return "looks like JSON, not a model; name the .gguf file";
  return "is not a GGUF file (it does not start with \"GGUF\"); name a .gguf model";
}

}  // namespace quarrel::gguf
