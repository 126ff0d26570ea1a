#include "gguf/split_files.h"

#include <string>
#include <type_traits>
#include <variant>

#include "gguf/format_error.h"
#include "gguf/printable.h"

namespace quarrel::gguf {
namespace {

constexpr std::uint64_t kMaxSplits = 65535;  // split.count is a uint16

std::optional<std::uint64_t> as_unsigned(const MetadataValue& value) {
  return std::visit(
      [](const auto& v) -> std::optional<std::uint64_t> {
        using T = std::remove_cvref_t<decltype(v)>;
        if constexpr (std::is_integral_v<T> && !std::is_same_v<T, bool>)
          if (v >= 0) return static_cast<std::uint64_t>(v);
        return std::nullopt;
      },
      value);
}

// The integer at `key`, or nothing when the file has no such key.
std::optional<std::uint64_t> read_unsigned(const Metadata& metadata, std::string_view key,
                                           std::string_view file) {
  const MetadataEntry* entry = metadata.find(key);
  if (entry == nullptr) return std::nullopt;
  const auto value = as_unsigned(entry->value);
  if (!value)
    fail_at(file, "key " + in_quotes(key), entry->offset,
            "expected an integer that is not negative, got something else; the file is damaged, "
            "fetch it again");
  return value;
}

void append_five_digits(std::string& out, std::uint64_t number) {
  const std::string digits = std::to_string(number);
  if (digits.size() < 5) out.append(5 - digits.size(), '0');
  out += digits;
}

std::string split_suffix(std::uint64_t number, std::uint64_t count) {
  std::string suffix = "-";
  append_five_digits(suffix, number + 1);
  suffix += "-of-";
  append_five_digits(suffix, count);
  return suffix + ".gguf";
}

}  // namespace

SplitPlace read_split_place(const Metadata& metadata, std::string_view file) {
  SplitPlace place;
  const auto count = read_unsigned(metadata, "split.count", file);
  if (!count || *count == 0) return place;  // 0 is written by tools that mean "not split"
  place.count = *count;
  place.number = read_unsigned(metadata, "split.no", file).value_or(0);
  place.n_tensors = read_unsigned(metadata, "split.tensors.count", file);
  if (place.count > kMaxSplits || place.number >= place.count)
    fail_at(file, "key \"split.count\"", metadata.find("split.count")->offset,
            "says that this is part " + std::to_string(place.number + 1) + " of " +
                std::to_string(place.count) + "; the file is damaged, fetch it again");
  return place;
}

std::filesystem::path split_sibling(const std::filesystem::path& path, const SplitPlace& place,
                                    std::uint64_t number) {
  const std::string name = path.filename().native();
  const std::string suffix = split_suffix(place.number, place.count);
  if (!name.ends_with(suffix))
    fail_file(path.native(), "is part " + std::to_string(place.number + 1) + " of " +
                                 std::to_string(place.count) +
                                 " of a split model, so its name must end in " + in_quotes(suffix) +
                                 "; rename it");
  const std::string prefix = name.substr(0, name.size() - suffix.size());
  return path.parent_path() / (prefix + split_suffix(number, place.count));
}

}  // namespace quarrel::gguf
