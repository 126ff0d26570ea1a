// The key-value part of a GGUF file.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string_view>
#include <variant>
#include <vector>

#include "gguf/name_index.h"

namespace quarrel::gguf {

// Numbers are those of the format.
enum class ValueType : std::uint32_t {
  kUint8 = 0,
  kInt8 = 1,
  kUint16 = 2,
  kInt16 = 3,
  kUint32 = 4,
  kInt32 = 5,
  kFloat32 = 6,
  kBool = 7,
  kString = 8,
  kArray = 9,
  kUint64 = 10,
  kInt64 = 11,
  kFloat64 = 12,
};

// An array left where it lies in the file: opening a model does not touch its vocabulary twice.
struct MetadataArray {
  ValueType element_type;            // never kArray: nested arrays are refused
  std::uint64_t size;                // elements
  std::span<const std::byte> bytes;  // little endian, packed, not aligned

  // Element `index` of a numeric or bool array; T must be the C++ type of element_type.
  template <class T>
  T at(std::uint64_t index) const {
    T value;
    std::memcpy(&value, bytes.data() + index * sizeof value, sizeof value);
    return value;
  }

  // Calls `visit(std::string_view)` for each element of a string array, in order.
  template <class Visit>
  void for_each_string(Visit&& visit) const {
    const std::byte* next = bytes.data();
    for (std::uint64_t i = 0; i < size; ++i) {
      std::uint64_t length;
      std::memcpy(&length, next, sizeof length);
      next += sizeof length;
      visit(std::string_view(reinterpret_cast<const char*>(next), length));
      next += length;
    }
  }
};

// The alternatives stand in the order of ValueType, so index() is the type's number.
using MetadataValue = std::variant<std::uint8_t, std::int8_t, std::uint16_t, std::int16_t,
                                   std::uint32_t, std::int32_t, float, bool, std::string_view,
                                   MetadataArray, std::uint64_t, std::int64_t, double>;

struct MetadataEntry {
  std::string_view key;  // like all text here a view into the mapped file, not checked as UTF-8
  MetadataValue value;
  std::uint64_t offset;  // of the entry, in bytes from the start of its file
};

class Metadata {
 public:
  Metadata() = default;
  explicit Metadata(std::vector<MetadataEntry> entries);

  // In the order of the file.
  std::span<const MetadataEntry> entries() const { return entries_; }
  // Null when there is no such key.
  const MetadataEntry* find(std::string_view key) const;
  const NameIndex& index() const { return index_; }

 private:
  std::vector<MetadataEntry> entries_;
  NameIndex index_;
};

}  // namespace quarrel::gguf
