// Packed small integers as floats, two at a time by way of half: 0x6400 | x are the bits of the
// half 1024 + x for x below 1024, so that an `and`, an `or` and an exact subtraction take the place
// of conversions, which GPUs make at a fraction of that rate (Kim et al., "Who Says Elephants Can't
// Run", 2022, do so for int4 and int8 weights).
#pragma once
#include <metal_stdlib>
using namespace metal;

// Both 16-bit halves of `bits`, less `bias`.
METAL_FUNC float2 integers_of(uint bits, uint bias) {
  return float2(as_type<half2>(bits ^ 0x64006400) - half2(half(1024 + bias)));
}
METAL_FUNC float4 interleaved(float2 even, float2 odd) {
  return float4(even.x, odd.x, even.y, odd.y);
}

// Four bytes, less `bias`.
METAL_FUNC float4 bytes_of(uint word, uint bias) {
  return interleaved(integers_of(word & 0x00ff00ff, bias),
                     integers_of(word >> 8 & 0x00ff00ff, bias));
}

// Four bytes with a sign. Turning the sign bit around adds 128.
METAL_FUNC float4 signed_bytes_of(uint word) {
  return interleaved(integers_of((word & 0x00ff00ff) ^ 0x00800080, 128),
                     integers_of((word >> 8 & 0x00ff00ff) ^ 0x00800080, 128));
}

// The low halves of four bytes, less `bias`.
METAL_FUNC float4 halves_of(uint word, uint bias) {
  return interleaved(integers_of(word & 0x000f000f, bias),
                     integers_of(word >> 8 & 0x000f000f, bias));
}

// Bytes 0 and 2 of a word (x) and bytes 1 and 3 (y) below the upper bits of the half 1024, so that
// the parts of a byte are taken out with one `and` each, where they stand.
METAL_FUNC uint2 byte_pairs(uint word) { return uint2(word, word >> 8) | 0x64006400; }

// The bits `field` of each of byte_pairs(), with `above` for what is stored elsewhere, less `bias`;
// in the order of the word. A field that begins at bit n is 2^n times its integer, below 1024.
METAL_FUNC float4 fields_of(uint2 pairs, uint field, uint bias, uint2 above = uint2(0)) {
  const uint2 bits = (pairs & (0x64006400 | field | field << 16)) | above;
  const half2 offset = half2(half(1024 + bias));
  return interleaved(float2(as_type<half2>(bits.x) - offset),
                     float2(as_type<half2>(bits.y) - offset));
}

// The upper or the lower half of each of byte_pairs(), less `bias`, for lanes that do not all take
// the same: a multiply-add, exact here, makes upper ones 16 times smaller.
METAL_FUNC float4 nibbles_of(uint2 pairs, bool is_upper, uint bias) {
  const uint2 bits = pairs & (is_upper ? 0x64f064f0u : 0x640f640fu);
  const float unit = is_upper ? 1.0f / 16 : 1.0f;
  const half2 scale = half2(half(unit)), offset = half2(half(-1024.0f * unit - float(bias)));
  return interleaved(float2(fma(as_type<half2>(bits.x), scale, offset)),
                     float2(fma(as_type<half2>(bits.y), scale, offset)));
}

// What fields_of() takes as `above`: bits of four bytes, moved up by `distance` to `field`.
METAL_FUNC uint2 moved_up(uint word, uint distance, uint field) {
  return uint2(word << distance, word >> (8 - distance)) & (field | field << 16);
}
