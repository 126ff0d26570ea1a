#include "gguf/part_parser.h"

#include <algorithm>
#include <bit>
#include <limits>
#include <numeric>
#include <optional>
#include <string>
#include <utility>

#include "gguf/byte_reader.h"
#include "gguf/foreign_file.h"
#include "gguf/format_error.h"
#include "gguf/ggml_type_name.h"
#include "gguf/printable.h"

namespace quarrel::gguf {
namespace {

static_assert(std::endian::native == std::endian::little, "GGUF is read as it lies in memory");

constexpr std::uint32_t kMaxDimensions = 4;
constexpr std::uint64_t kMaxNameBytes = 65535;  // the format's limit for a key
constexpr std::uint64_t kDefaultAlignment = 32;
// The least that one of them takes in a file: length of the name, type, and value or offset.
constexpr std::uint64_t kMinEntryBytes = 8 + 4 + 1;
constexpr std::uint64_t kMinTensorBytes = 8 + 4 + 4 + 8;

struct Header {
  std::uint32_t version;
  std::uint64_t n_tensors;
  std::uint64_t n_entries;
};

// A tensor as the file describes it, before its data is looked for.
struct Description {
  std::string_view name;
  DType dtype;
  std::vector<std::uint64_t> shape;
  std::uint64_t n_bytes;
  std::uint64_t data_offset;  // from the start of the data section
  std::uint64_t entry_offset;
};

Header read_header(ByteReader& reader, std::span<const std::byte> bytes, std::string_view file) {
  constexpr std::string_view kMagic = "GGUF";
  const auto magic = bytes.first(std::min(bytes.size(), kMagic.size()));
  if (!std::ranges::equal(magic, std::as_bytes(std::span(kMagic))))
    fail_file(file, describe_foreign(bytes));
  reader.take(kMagic.size(), "magic");
  Header header{};
  header.version = reader.read<std::uint32_t>("version");
  if ((header.version & 0xffffu) == 0 && header.version != 0)
    reader.fail("is a big-endian file; convert it to little endian (gguf-convert-endian)", 4);
  if (header.version != 2 && header.version != 3)
    reader.fail("expected GGUF version 2 or 3, got " + std::to_string(header.version) +
                    "; convert the model again with current tools",
                4);
  header.n_tensors = reader.read<std::uint64_t>("tensor count");
  header.n_entries = reader.read<std::uint64_t>("metadata count");
  return header;
}

std::string_view read_name(ByteReader& reader, std::string_view field) {
  const std::uint64_t start = reader.position();
  const std::string_view name = reader.read_string(field);
  if (name.empty() || name.size() > kMaxNameBytes)
    reader.fail("expected a " + std::string(field) + " of 1 to " + std::to_string(kMaxNameBytes) +
                    " bytes, got " + std::to_string(name.size()) +
                    "; the file is damaged, fetch it again",
                start);
  return name;
}

ValueType read_value_type(ByteReader& reader, std::string_view field) {
  const std::uint64_t start = reader.position();
  const auto number = reader.read<std::uint32_t>(field);
  if (number > static_cast<std::uint32_t>(ValueType::kFloat64))
    reader.fail("has the unknown metadata type " + std::to_string(number) +
                    "; the file is damaged or of a newer format, fetch it again",
                start);
  return static_cast<ValueType>(number);
}

bool read_bool(ByteReader& reader, std::uint64_t start, std::uint8_t byte) {
  if (byte > 1)
    reader.fail("expected a bool of 0 or 1, got " + std::to_string(byte) +
                    "; the file is damaged, fetch it again",
                start);
  return byte == 1;
}

// Bytes of a scalar; 0 for a string, which has no fixed size.
std::uint64_t scalar_bytes(ValueType type) {
  switch (type) {
    case ValueType::kUint8:
    case ValueType::kInt8:
    case ValueType::kBool:
      return 1;
    case ValueType::kUint16:
    case ValueType::kInt16:
      return 2;
    case ValueType::kUint32:
    case ValueType::kInt32:
    case ValueType::kFloat32:
      return 4;
    case ValueType::kUint64:
    case ValueType::kInt64:
    case ValueType::kFloat64:
      return 8;
    case ValueType::kString:
    case ValueType::kArray:
      return 0;
  }
  return 0;
}

MetadataArray read_array(ByteReader& reader, std::span<const std::byte> bytes) {
  const std::uint64_t type_offset = reader.position();
  MetadataArray array{};
  array.element_type = read_value_type(reader, "element type");
  if (array.element_type == ValueType::kArray)
    reader.fail("is an array of arrays, which is not supported; convert the model again without it",
                type_offset);
  array.size = reader.read<std::uint64_t>("array length");
  const std::uint64_t start = reader.position();
  if (array.element_type == ValueType::kString) {
    reader.expect_room(array.size, sizeof(std::uint64_t), "strings");
    for (std::uint64_t i = 0; i < array.size; ++i) reader.read_string("array of strings");
  } else {
    const std::uint64_t each = scalar_bytes(array.element_type);
    reader.expect_room(array.size, each, "array elements");
    reader.take(array.size * each, "array");
  }
  array.bytes = bytes.subspan(start, reader.position() - start);
  if (array.element_type == ValueType::kBool)
    for (std::uint64_t i = 0; i < array.size; ++i)
      read_bool(reader, start + i, array.at<std::uint8_t>(i));
  return array;
}

MetadataValue read_value(ByteReader& reader, ValueType type, std::span<const std::byte> bytes) {
  switch (type) {
    case ValueType::kUint8:
      return reader.read<std::uint8_t>("value");
    case ValueType::kInt8:
      return reader.read<std::int8_t>("value");
    case ValueType::kUint16:
      return reader.read<std::uint16_t>("value");
    case ValueType::kInt16:
      return reader.read<std::int16_t>("value");
    case ValueType::kUint32:
      return reader.read<std::uint32_t>("value");
    case ValueType::kInt32:
      return reader.read<std::int32_t>("value");
    case ValueType::kFloat32:
      return reader.read<float>("value");
    case ValueType::kUint64:
      return reader.read<std::uint64_t>("value");
    case ValueType::kInt64:
      return reader.read<std::int64_t>("value");
    case ValueType::kFloat64:
      return reader.read<double>("value");
    case ValueType::kString:
      return reader.read_string("string");
    case ValueType::kArray:
      return read_array(reader, bytes);
    case ValueType::kBool:
      break;
  }
  const std::uint64_t start = reader.position();
  return read_bool(reader, start, reader.read<std::uint8_t>("value"));
}

[[noreturn]] void fail_duplicate(ByteReader& reader, std::string_view kind, std::string_view name,
                                 std::uint64_t first, std::uint64_t second) {
  reader.set_subject(kind, name);
  reader.fail("appears a second time (the first is at byte " + std::to_string(first) +
                  "); the file is damaged, fetch it again",
              second);
}

Metadata read_metadata(ByteReader& reader, std::uint64_t n_entries,
                       std::span<const std::byte> bytes) {
  reader.expect_room(n_entries, kMinEntryBytes, "metadata entries");
  std::vector<MetadataEntry> entries;
  entries.reserve(n_entries);
  for (std::uint64_t i = 0; i < n_entries; ++i) {
    const std::uint64_t start = reader.position();
    reader.set_subject("metadata entry " + std::to_string(i));
    const std::string_view key = read_name(reader, "key");
    reader.set_subject("key", key);
    const ValueType type = read_value_type(reader, "type");
    entries.push_back({key, read_value(reader, type, bytes), start});
  }
  Metadata metadata(std::move(entries));
  if (const auto twice = metadata.index().duplicate()) {
    const auto& first = metadata.entries()[twice->first];
    fail_duplicate(reader, "key", first.key, first.offset,
                   metadata.entries()[twice->second].offset);
  }
  return metadata;
}

// Alignment of the data section and of each tensor in it. Below 8 the format does not allow it,
// and kernels may rely on it.
std::uint64_t read_alignment(ByteReader& reader, const Metadata& metadata) {
  const MetadataEntry* entry = metadata.find("general.alignment");
  if (entry == nullptr) return kDefaultAlignment;
  const auto* alignment = std::get_if<std::uint32_t>(&entry->value);
  reader.set_subject("key", entry->key);
  if (alignment == nullptr)
    reader.fail("expected a uint32, got another type; the file is damaged, fetch it again",
                entry->offset);
  if (!std::has_single_bit(*alignment) || *alignment < 8)
    reader.fail("expected a power of two of at least 8, got " + std::to_string(*alignment) +
                    "; the file is damaged, fetch it again",
                entry->offset);
  return *alignment;
}

DType read_dtype(ByteReader& reader) {
  const std::uint64_t start = reader.position();
  const auto number = reader.read<std::uint32_t>("type");
  if (const auto dtype = dtype_from_number(number)) return *dtype;
  std::string supported;
  for (const auto& t : all_dtypes()) supported.append(" ").append(t.name);
  reader.fail("has the tensor type " + ggml_type_name(number) +
                  ", which is not supported; use a file with types among" + supported,
              start);
}

std::vector<std::uint64_t> read_shape(ByteReader& reader) {
  const std::uint64_t start = reader.position();
  const auto n_dimensions = reader.read<std::uint32_t>("number of dimensions");
  if (n_dimensions > kMaxDimensions)
    reader.fail("expected at most 4 dimensions, got " + std::to_string(n_dimensions) +
                    "; the file is damaged, fetch it again",
                start);
  std::vector<std::uint64_t> shape(n_dimensions);
  for (auto& length : shape) {
    length = reader.read<std::uint64_t>("dimensions");
    if (length == 0)
      reader.fail("has a dimension of 0; the file is damaged, fetch it again", start);
  }
  return shape;
}

// Bytes of a tensor, with every product checked. Elements and bytes stay below 2^63, so that
// signed indices are safe as well.
std::uint64_t tensor_bytes(ByteReader& reader, const std::vector<std::uint64_t>& shape, DType dtype,
                           std::uint64_t start) {
  constexpr std::uint64_t kMax = std::numeric_limits<std::int64_t>::max();
  const auto& block = traits(dtype);
  const std::uint64_t row = shape.empty() ? 1 : shape[0];
  if (row % block.block_elements != 0)
    reader.fail("has rows of " + std::to_string(row) +
                    " elements, which is not a multiple of the " +
                    std::to_string(block.block_elements) + " in a block of " +
                    std::string(block.name) + "; the file is damaged, fetch it again",
                start);
  std::uint64_t elements = 1;
  for (const std::uint64_t length : shape) {
    if (length > kMax / elements)
      reader.fail("has more elements than 64 bits can count; the file is damaged, fetch it again",
                  start);
    elements *= length;
  }
  const std::uint64_t blocks = elements / block.block_elements;
  if (blocks > kMax / block.block_bytes)
    reader.fail("has more bytes than 64 bits can count; the file is damaged, fetch it again",
                start);
  return blocks * block.block_bytes;
}

Description read_description(ByteReader& reader, std::uint64_t number, std::uint64_t alignment) {
  Description tensor{};
  tensor.entry_offset = reader.position();
  reader.set_subject("tensor entry " + std::to_string(number));
  tensor.name = read_name(reader, "name");
  reader.set_subject("tensor", tensor.name);
  tensor.shape = read_shape(reader);
  tensor.dtype = read_dtype(reader);
  tensor.n_bytes = tensor_bytes(reader, tensor.shape, tensor.dtype, tensor.entry_offset);
  const std::uint64_t offset_at = reader.position();
  tensor.data_offset = reader.read<std::uint64_t>("offset");
  if (tensor.data_offset % alignment != 0)
    reader.fail("expected a data offset that is a multiple of the alignment " +
                    std::to_string(alignment) + ", got " + std::to_string(tensor.data_offset) +
                    "; the file is damaged, fetch it again",
                offset_at);
  return tensor;
}

TensorInfo locate(ByteReader& reader, const Description& tensor, std::span<const std::byte> bytes,
                  std::uint64_t data_start, int split) {
  reader.set_subject("tensor", tensor.name);
  const std::uint64_t room = bytes.size() - std::min<std::uint64_t>(data_start, bytes.size());
  if (tensor.data_offset > room || tensor.n_bytes > room - tensor.data_offset)
    reader.fail("expected " + std::to_string(tensor.n_bytes) + " bytes of data at offset " +
                    std::to_string(tensor.data_offset) + " of the data section, which has " +
                    std::to_string(room) + " bytes; the file is truncated or damaged, " +
                    "fetch it again",
                tensor.entry_offset);
  const std::uint64_t offset = data_start + tensor.data_offset;
  return {std::string(tensor.name),
          tensor.dtype,
          tensor.shape,
          bytes.subspan(offset, tensor.n_bytes),
          offset,
          split};
}

void refuse_overlap(ByteReader& reader, const std::vector<TensorInfo>& tensors) {
  std::vector<const TensorInfo*> order;
  order.reserve(tensors.size());
  for (const auto& tensor : tensors) order.push_back(&tensor);
  std::ranges::sort(order, {}, [](const TensorInfo* tensor) { return tensor->offset; });
  for (std::size_t i = 1; i < order.size(); ++i) {
    const TensorInfo& before = *order[i - 1];
    if (before.data.size() <= order[i]->offset - before.offset) continue;
    reader.set_subject("tensor", order[i]->name);
    reader.fail("its data overlaps that of tensor " + in_quotes(before.name) +
                    "; the file is damaged, fetch it again",
                order[i]->offset);
  }
}

std::vector<TensorInfo> read_tensors(ByteReader& reader, std::uint64_t n_tensors,
                                     std::uint64_t alignment, std::span<const std::byte> bytes,
                                     int split) {
  reader.set_subject("header");
  reader.expect_room(n_tensors, kMinTensorBytes, "tensors");
  std::vector<Description> descriptions;
  descriptions.reserve(n_tensors);
  for (std::uint64_t i = 0; i < n_tensors; ++i)
    descriptions.push_back(read_description(reader, i, alignment));
  // Cannot overflow: a position is below 2^63 and an alignment below 2^32.
  const std::uint64_t data_start = (reader.position() + alignment - 1) / alignment * alignment;
  std::vector<std::string_view> names;
  std::vector<TensorInfo> tensors;
  names.reserve(descriptions.size());
  tensors.reserve(descriptions.size());
  for (const auto& tensor : descriptions) names.push_back(tensor.name);
  if (const auto twice = NameIndex(names).duplicate())
    fail_duplicate(reader, "tensor", names[twice->first], descriptions[twice->first].entry_offset,
                   descriptions[twice->second].entry_offset);
  for (const auto& tensor : descriptions)
    tensors.push_back(locate(reader, tensor, bytes, data_start, split));
  refuse_overlap(reader, tensors);
  return tensors;
}

}  // namespace

ParsedPart parse_part(std::span<const std::byte> bytes, std::string_view file, int split) {
  ByteReader reader(bytes, file);
  const Header header = read_header(reader, bytes, file);
  ParsedPart part{header.version, read_metadata(reader, header.n_entries, bytes), {}};
  const std::uint64_t alignment = read_alignment(reader, part.metadata);
  part.tensors = read_tensors(reader, header.n_tensors, alignment, bytes, split);
  return part;
}

}  // namespace quarrel::gguf
