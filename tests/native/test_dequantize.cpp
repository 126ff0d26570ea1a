// Block formats without Python: hand-computed blocks, round trips and refusals. Comparison with the
// reference over random blocks is in tests/gguf/test_dequantize.py.
#include <doctest/doctest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <limits>
#include <random>
#include <utility>
#include <vector>

#include "core/error.h"
#include "gguf/dequantize.h"

using namespace quarrel;

namespace {

constexpr std::byte kOneLow{0x00}, kOneHigh{0x3c};  // the float16 1.0

std::vector<float> expand(DType dtype, const std::vector<std::byte>& data, std::size_t n_elements) {
  std::vector<float> values(n_elements);
  gguf::dequantize_row(dtype, data.data(), values.data(), n_elements);
  return values;
}

std::vector<std::byte> pack(DType dtype, const std::vector<float>& values) {
  std::vector<std::byte> data(row_bytes(dtype, values.size()));
  gguf::quantize_row(dtype, values.data(), data.data(), values.size());
  return data;
}

// A block of zeros but for these bytes.
std::vector<std::byte> block(DType dtype,
                             const std::vector<std::pair<std::size_t, std::byte>>& bytes) {
  std::vector<std::byte> data(traits(dtype).block_bytes);
  for (const auto& [position, byte] : bytes) data[position] = byte;
  return data;
}

}  // namespace

TEST_CASE("dequantize: low and high nibbles of the 4- and 5-bit blocks") {
  // Scale 1; byte 3 of the elements is 0xa5: element 3 is 5, element 19 is 10.
  const std::byte nibbles{0xa5};
  const auto q4_0 =
      expand(DType::Q4_0, block(DType::Q4_0, {{0, kOneLow}, {1, kOneHigh}, {5, nibbles}}), 32);
  CHECK(q4_0[3] == -3.0f);
  CHECK(q4_0[19] == 2.0f);
  CHECK(q4_0[0] == -8.0f);
  // The minimum is 1 as well.
  const auto q4_1 =
      expand(DType::Q4_1, block(DType::Q4_1, {{1, kOneHigh}, {3, kOneHigh}, {7, nibbles}}), 32);
  CHECK(q4_1[3] == 6.0f);
  CHECK(q4_1[19] == 11.0f);
  CHECK(q4_1[0] == 1.0f);
  // Fifth bit of element 19 set: bit 19 is bit 3 of the third byte of four.
  const auto q5_0 =
      expand(DType::Q5_0, block(DType::Q5_0, {{1, kOneHigh}, {4, std::byte{8}}, {9, nibbles}}), 32);
  CHECK(q5_0[3] == -11.0f);
  CHECK(q5_0[19] == 10.0f);
  const auto q5_1 = expand(
      DType::Q5_1, block(DType::Q5_1, {{1, kOneHigh}, {6, std::byte{8}}, {11, nibbles}}), 32);
  CHECK(q5_1[3] == 5.0f);
  CHECK(q5_1[19] == 26.0f);
}

TEST_CASE("dequantize: Q6_K takes its bits from three places") {
  // Scale 1, sub-scale 9 is -2. Element 147 is in sub-block 9, whose low bits start at byte 80 and
  // whose high bits start at byte 176: its own are bytes 83 and 179.
  const auto values = expand(
      DType::Q6_K,
      block(
          DType::Q6_K,
          {{209, kOneHigh}, {201, std::byte{0xfe}}, {83, std::byte{0x0f}}, {179, std::byte{0x01}}}),
      256);
  CHECK(values[147] == -2.0f * (31 - 32));
  CHECK(values[144] == -2.0f * (0 - 32));
  CHECK(values[0] == 0.0f);
}

TEST_CASE("dequantize: any bytes are a block of every type") {
  std::mt19937 random(1);
  for (const auto& t : all_dtypes()) {
    const std::size_t n_blocks = 64;
    std::vector<std::byte> data(n_blocks * t.block_bytes);
    for (auto& byte : data) byte = static_cast<std::byte>(random());
    const auto all = expand(t.dtype, data, n_blocks * t.block_elements);
    // One block alone gives what it gives in a row, wherever it starts.
    const std::vector<std::byte> last(data.end() - static_cast<long>(t.block_bytes), data.end());
    const auto alone = expand(t.dtype, last, t.block_elements);
    for (std::size_t i = 0; i < alone.size(); ++i) {
      const float expected = all[all.size() - alone.size() + i];
      CHECK((alone[i] == expected || (std::isnan(alone[i]) && std::isnan(expected))));
    }
  }
}

TEST_CASE("quantize: the round trip stays within the type's step") {
  std::mt19937 random(2);
  std::normal_distribution<float> normal;
  std::vector<float> values(1024);
  for (auto& value : values) value = normal(random);
  // Largest error as a share of the largest value of the block: half a step, a whole one where
  // Q4_0 cannot reach the far end, and half a unit in the last place of the 16-bit floats. The
  // 16-bit scale of a block adds 2^-11 of the value.
  const std::vector<std::pair<DType, float>> bounds{{DType::F32, 0.0f},
                                                    {DType::F16, 0x1p-11f},
                                                    {DType::BF16, 0x1p-8f},
                                                    {DType::Q8_0, 0.5f / 127 + 0x1p-11f},
                                                    {DType::Q4_0, 1.0f / 8 + 0x1p-11f}};
  for (const auto& [dtype, bound] : bounds) {
    const auto back = expand(dtype, pack(dtype, values), values.size());
    for (std::size_t start = 0; start < values.size(); start += 32) {
      float largest = 0.0f;
      for (std::size_t i = start; i < start + 32; ++i)
        largest = std::max(largest, std::fabs(values[i]));
      for (std::size_t i = start; i < start + 32; ++i)
        CHECK(std::fabs(back[i] - values[i]) <= bound * largest);
    }
  }
}

TEST_CASE("quantize: zeros, tiny, huge and broken values") {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
  for (const DType dtype : {DType::Q8_0, DType::Q4_0}) {
    const std::vector<float> zeros(32, 0.0f);
    CHECK(expand(dtype, pack(dtype, zeros), 32) == zeros);
    CHECK(expand(dtype, pack(dtype, std::vector<float>(32, 1e-44f)), 32) == zeros);
    CHECK(expand(dtype, pack(dtype, std::vector<float>(32, 3e38f)), 32)[0] == kInfinity);
    for (const float broken : {kInfinity, -kInfinity, kNan}) {
      std::vector<float> values(32, 1.0f);
      values[9] = broken;
      for (const float back : expand(dtype, pack(dtype, values), 32)) CHECK(std::isnan(back));
    }
  }
}

TEST_CASE("quantize and dequantize refuse what does not fit") {
  std::array<float, 256> values{};
  std::array<std::byte, 256> data{};
  CHECK_THROWS_AS(gguf::dequantize_row(DType::Q8_0, data.data(), values.data(), 31),
                  InvalidArgument);
  CHECK_THROWS_AS(gguf::quantize_row(DType::Q8_0, values.data(), data.data(), 33), InvalidArgument);
  CHECK_THROWS_AS(gguf::quantize_row(DType::Q6_K, values.data(), data.data(), 256),
                  InvalidArgument);
}
