// 16-bit floats: every one of the 65,536 of both formats, and the rounding between them.
#include <doctest/doctest.h>

#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>

#include "gguf/half.h"

using namespace quarrel::gguf;

namespace {

std::uint32_t bits(float value) { return std::bit_cast<std::uint32_t>(value); }

// The value of a finite half from its definition, exact in double.
double half_value(std::uint16_t half) {
  const int exponent = (half >> 10) & 31;
  const int mantissa = half & 1023;
  const double magnitude =
      exponent == 0 ? std::ldexp(mantissa, -24) : std::ldexp(1024 + mantissa, exponent - 25);
  return half & 0x8000 ? -magnitude : magnitude;
}

bool is_nan_half(std::uint16_t half) { return (half & 0x7fff) > 0x7c00; }

}  // namespace

TEST_CASE("half: every half has its defined value and survives the round trip") {
  std::size_t wrong = 0;
  for (std::uint32_t i = 0; i < 65536; ++i) {
    const auto half = static_cast<std::uint16_t>(i);
    const float value = f16_to_f32(half);
    if (is_nan_half(half)) {
      // Quiet, same sign and payload.
      wrong += !std::isnan(value) || f32_to_f16(value) != (half | 0x200);
    } else if ((half & 0x7fff) == 0x7c00) {
      wrong += !std::isinf(value) || f32_to_f16(value) != half;
    } else {
      wrong += static_cast<double>(value) != half_value(half) || f32_to_f16(value) != half;
    }
  }
  CHECK(wrong == 0);
}

TEST_CASE("half: rounds to the nearest, ties to even, between all neighbours") {
  std::size_t wrong = 0;
  for (std::uint32_t i = 0; i < 0x7bff; ++i) {
    const auto below = static_cast<std::uint16_t>(i);
    const auto above = static_cast<std::uint16_t>(i + 1);
    const auto middle = static_cast<float>((half_value(below) + half_value(above)) / 2);  // exact
    const auto even = i % 2 == 0 ? below : above;
    wrong += f32_to_f16(middle) != even;
    wrong += f32_to_f16(std::nextafter(middle, 0.0f)) != below;
    wrong += f32_to_f16(std::nextafter(middle, 1e9f)) != above;
    wrong += f32_to_f16(-middle) != (even | 0x8000);
  }
  CHECK(wrong == 0);
}

TEST_CASE("half: overflow, underflow and special values") {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  CHECK(f32_to_f16(65519.996f) == 0x7bff);
  CHECK(f32_to_f16(65520.0f) == 0x7c00);
  CHECK(f32_to_f16(-kInfinity) == 0xfc00);
  CHECK(f32_to_f16(0x1p-25f) == 0x0000);
  CHECK(f32_to_f16(0x1.000002p-25f) == 0x0001);
  CHECK(f32_to_f16(-1e-40f) == 0x8000);
  CHECK(is_nan_half(f32_to_f16(std::bit_cast<float>(0x7f800001u))));
  CHECK(is_nan_half(f32_to_f16(std::bit_cast<float>(0xffc00000u))));
}

TEST_CASE("bf16: every value survives the round trip") {
  std::size_t wrong = 0;
  for (std::uint32_t i = 0; i < 65536; ++i) {
    const auto value = static_cast<std::uint16_t>(i);
    const bool nan = (value & 0x7fff) > 0x7f80;
    wrong += bits(bf16_to_f32(value)) != i << 16;
    wrong += f32_to_bf16(bf16_to_f32(value)) != (nan ? value | 0x40 : value);
  }
  CHECK(wrong == 0);
}

TEST_CASE("bf16: rounds to the nearest, ties to even, and keeps NaN") {
  const auto from_bits = [](std::uint32_t b) { return f32_to_bf16(std::bit_cast<float>(b)); };
  CHECK(from_bits(0x3f808000u) == 0x3f80);
  CHECK(from_bits(0x3f818000u) == 0x3f82);
  CHECK(from_bits(0x3f808001u) == 0x3f81);
  CHECK(from_bits(0x3f807fffu) == 0x3f80);
  CHECK(from_bits(0x7f7fffffu) == 0x7f80);  // the largest float rounds to infinity
  CHECK(from_bits(0x7f800001u) == 0x7fc0);
  CHECK(from_bits(0xffffffffu) == 0xffff);
}
