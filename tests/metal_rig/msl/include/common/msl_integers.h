// <metal_integer>
#pragma once
namespace metal {
template <class T>
using __if_integral = enable_if_t<is_integral_v<T>>;
// The value's own bits, no sign extension.
template <class T>
constexpr ulong __bits_of(T x) {
  return (ulong)x & (~0ul >> (64 - 8 * sizeof(T)));
}
template <class T, class = __if_integral<T>>
constexpr T popcount(T x) {
  return (T)__builtin_popcountll(__bits_of(x));
}
template <class T, class = __if_integral<T>>
constexpr T clz(T x) {
  constexpr int n = 8 * sizeof(T);
  return __bits_of(x) ? (T)(__builtin_clzll(__bits_of(x)) - (64 - n)) : (T)n;
}
template <class T, class = __if_integral<T>>
constexpr T ctz(T x) {
  return __bits_of(x) ? (T)__builtin_ctzll(__bits_of(x)) : (T)(8 * sizeof(T));
}
template <class T, class = __if_integral<T>>
constexpr T extract_bits(T x, uint offset, uint n_bits) {
  const ulong mask = n_bits >= 64 ? ~0ul : (1ul << n_bits) - 1;
  const ulong bits = (__bits_of(x) >> offset) & mask;
  const bool negative = is_signed_v<T> && n_bits > 0 && (bits >> (n_bits - 1) & 1);
  return (T)(negative ? bits | ~mask : bits);
}
inline uint mulhi(uint a, uint b) { return (uint)(((ulong)a * b) >> 32); }
inline uint reverse_bits(uint x) { return __builtin_bitreverse32(x); }
inline uint mul24(uint a, uint b) { return a * b; }
inline int mul24(int a, int b) { return a * b; }
}  // namespace metal
