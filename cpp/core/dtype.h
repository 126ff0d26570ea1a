// Element types of tensors and their block geometry. Numbers are those of the GGUF format.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string_view>

namespace quarrel {

enum class DType : std::uint32_t {
  F32 = 0,
  F16 = 1,
  Q4_0 = 2,
  Q4_1 = 3,
  Q5_0 = 6,
  Q5_1 = 7,
  Q8_0 = 8,
  Q2_K = 10,
  Q3_K = 11,
  Q4_K = 12,
  Q5_K = 13,
  Q6_K = 14,
  BF16 = 30,
};

// A dtype stores `block_elements` consecutive elements in `block_bytes` bytes.
struct DTypeTraits {
  DType dtype;
  std::string_view name;  // "Q4_1", as in GGUF tools
  std::size_t block_elements;
  std::size_t block_bytes;
};

// Every supported dtype, in the order of their numbers.
std::span<const DTypeTraits> all_dtypes();

// The dtype with this GGUF number, or nothing when it is not supported.
std::optional<DType> dtype_from_number(std::uint32_t number);

// The dtype with this name, upper or lower case ("q8_0"), or nothing.
std::optional<DType> dtype_from_name(std::string_view name);

const DTypeTraits& traits(DType dtype);

// Bytes of a row of `n_elements`; n_elements must be a multiple of block_elements.
std::size_t row_bytes(DType dtype, std::size_t n_elements);

}  // namespace quarrel
