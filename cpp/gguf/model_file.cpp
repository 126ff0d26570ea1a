#include "gguf/model_file.h"

#include <algorithm>
#include <iterator>
#include <optional>
#include <system_error>
#include <utility>

#include "gguf/format_error.h"
#include "gguf/part_parser.h"
#include "gguf/printable.h"
#include "gguf/split_files.h"

namespace quarrel::gguf {

// One file of the model; `mapping` is empty when the bytes were lent by the caller.
struct ModelFile::Part {
  std::string file;
  std::uint64_t n_bytes;
  std::optional<MappedFile> mapping;
  ParsedPart parsed;
};

namespace {

void check_sibling(const SplitPlace& first, const SplitPlace& sibling, std::uint64_t number,
                   std::string_view file) {
  if (sibling.count == first.count && sibling.number == number) return;
  fail_file(file, "says that it is part " + std::to_string(sibling.number + 1) + " of " +
                      std::to_string(sibling.count) + ", expected part " +
                      std::to_string(number + 1) + " of " + std::to_string(first.count) +
                      "; fetch all parts of the model again");
}

std::filesystem::path existing_sibling(const std::filesystem::path& path, const SplitPlace& place,
                                       std::uint64_t number) {
  auto sibling = split_sibling(path, place, number);
  std::error_code ignored;
  if (!std::filesystem::exists(sibling, ignored))
    fail_file(sibling.native(), "part " + std::to_string(number + 1) + " of " +
                                    std::to_string(place.count) +
                                    " of a split model is missing; put it beside the first part");
  return sibling;
}

}  // namespace

std::uint64_t TensorInfo::n_elements() const {
  std::uint64_t product = 1;
  for (const std::uint64_t length : shape) product *= length;
  return product;
}

std::shared_ptr<const ModelFile> ModelFile::open(const std::filesystem::path& path) {
  std::vector<Part> parts;
  const auto add = [&parts](const std::filesystem::path& file) -> const Part& {
    MappedFile mapping(file);
    const auto bytes = mapping.bytes();
    auto parsed = parse_part(bytes, file.native(), static_cast<int>(parts.size()));
    parts.push_back({file.native(), bytes.size(), std::move(mapping), std::move(parsed)});
    return parts.back();
  };
  const SplitPlace place = read_split_place(add(path).parsed.metadata, path.native());
  if (place.number != 0)
    fail_file(path.native(), "is part " + std::to_string(place.number + 1) + " of " +
                                 std::to_string(place.count) + " of a split model; open " +
                                 in_quotes(split_sibling(path, place, 0).native()) + " instead");
  for (std::uint64_t number = 1; number < place.count; ++number) {
    const Part& part = add(existing_sibling(path, place, number));
    check_sibling(place, read_split_place(part.parsed.metadata, part.file), number, part.file);
  }
  std::shared_ptr<const ModelFile> model(new ModelFile(path, std::move(parts)));
  if (place.n_tensors && *place.n_tensors != model->tensors().size())
    fail_at(path.native(), "key \"split.tensors.count\"",
            model->metadata().find("split.tensors.count")->offset,
            "claims " + std::to_string(*place.n_tensors) + " tensors, got " +
                std::to_string(model->tensors().size()) + "; fetch all parts of the model again");
  return model;
}

std::shared_ptr<const ModelFile> ModelFile::parse(std::span<const std::byte> bytes,
                                                  std::string name) {
  std::vector<Part> parts;
  auto parsed = parse_part(bytes, name, 0);
  if (read_split_place(parsed.metadata, name).count > 1)
    fail_file(name, "is part of a split model, which cannot be read from memory; open its file");
  parts.push_back({name, bytes.size(), std::nullopt, std::move(parsed)});
  return std::shared_ptr<const ModelFile>(new ModelFile(name, std::move(parts)));
}

ModelFile::ModelFile(std::filesystem::path path, std::vector<Part> parts)
    : path_(std::move(path)), n_splits_(static_cast<int>(parts.size())) {
  version_ = parts.front().parsed.version;
  metadata_ = std::move(parts.front().parsed.metadata);
  for (Part& part : parts) {
    file_bytes_ += part.n_bytes;
    if (part.mapping) mappings_.push_back(std::move(*part.mapping));
    std::ranges::move(part.parsed.tensors, std::back_inserter(tensors_));
  }
  std::vector<std::string_view> names;
  names.reserve(tensors_.size());
  for (const auto& tensor : tensors_) names.push_back(tensor.name);
  tensor_index_ = NameIndex(names);
  if (const auto twice = tensor_index_.duplicate()) {
    const TensorInfo& second = tensors_[twice->second];
    fail_at(parts[static_cast<std::size_t>(second.split)].file, "tensor " + in_quotes(second.name),
            second.offset,
            "is already in another part of the model; fetch all parts of the model again");
  }
}

void ModelFile::release_pages() const {
  for (const MappedFile& mapping : mappings_) mapping.release_pages();
}

const TensorInfo* ModelFile::find_tensor(std::string_view name) const {
  const auto position = tensor_index_.find(name);
  return position ? &tensors_[*position] : nullptr;
}

}  // namespace quarrel::gguf
