#include "core/dtype.h"

#include <algorithm>
#include <array>
#include <cassert>
#include <cctype>

namespace quarrel {
namespace {

constexpr std::array<DTypeTraits, 13> kDTypes{{
    {DType::F32, "F32", 1, 4},
    {DType::F16, "F16", 1, 2},
    {DType::Q4_0, "Q4_0", 32, 18},
    {DType::Q4_1, "Q4_1", 32, 20},
    {DType::Q5_0, "Q5_0", 32, 22},
    {DType::Q5_1, "Q5_1", 32, 24},
    {DType::Q8_0, "Q8_0", 32, 34},
    {DType::Q2_K, "Q2_K", 256, 84},
    {DType::Q3_K, "Q3_K", 256, 110},
    {DType::Q4_K, "Q4_K", 256, 144},
    {DType::Q5_K, "Q5_K", 256, 176},
    {DType::Q6_K, "Q6_K", 256, 210},
    {DType::BF16, "BF16", 1, 2},
}};

bool equal_ignoring_case(std::string_view a, std::string_view b) {
  return std::ranges::equal(
      a, b, [](unsigned char x, unsigned char y) { return std::toupper(x) == std::toupper(y); });
}

}  // namespace

std::span<const DTypeTraits> all_dtypes() { return kDTypes; }

std::optional<DType> dtype_from_number(std::uint32_t number) {
  for (const auto& t : kDTypes)
    if (static_cast<std::uint32_t>(t.dtype) == number) return t.dtype;
  return std::nullopt;
}

std::optional<DType> dtype_from_name(std::string_view name) {
  for (const auto& t : kDTypes)
    if (equal_ignoring_case(t.name, name)) return t.dtype;
  return std::nullopt;
}

const DTypeTraits& traits(DType dtype) {
  const auto* found = std::ranges::find(kDTypes, dtype, &DTypeTraits::dtype);
  assert(found != kDTypes.end());
  return *found;
}

std::size_t row_bytes(DType dtype, std::size_t n_elements) {
  const auto& t = traits(dtype);
  assert(n_elements % t.block_elements == 0);
  return n_elements / t.block_elements * t.block_bytes;
}

}  // namespace quarrel
