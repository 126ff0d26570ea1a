#include "gguf/metadata.h"

#include <utility>

namespace quarrel::gguf {
namespace {

std::vector<std::string_view> keys(const std::vector<MetadataEntry>& entries) {
  std::vector<std::string_view> names;
  names.reserve(entries.size());
  for (const auto& entry : entries) names.push_back(entry.key);
  return names;
}

}  // namespace

Metadata::Metadata(std::vector<MetadataEntry> entries)
    : entries_(std::move(entries)), index_(keys(entries_)) {}

const MetadataEntry* Metadata::find(std::string_view key) const {
  const auto position = index_.find(key);
  return position ? &entries_[*position] : nullptr;
}

}  // namespace quarrel::gguf
