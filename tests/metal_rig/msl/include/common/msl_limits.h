// <metal_limits>
#pragma once
namespace metal {
template <class T>
struct numeric_limits;
#define _MSL_INTEGER_LIMITS(T, LOW, HIGH)                              \
  template <>                                                          \
  struct numeric_limits<T> {                                           \
    static constexpr bool is_integer = true;                           \
    static constexpr bool is_signed = (T) - 1 < (T)0;                  \
    static constexpr int digits = 8 * (int)sizeof(T) - (int)is_signed; \
    static constexpr T max() { return HIGH; }                          \
    static constexpr T min() { return LOW; }                           \
    static constexpr T lowest() { return LOW; }                        \
  };
_MSL_INTEGER_LIMITS(char, -128, 127)
_MSL_INTEGER_LIMITS(int8_t, -128, 127)
_MSL_INTEGER_LIMITS(uchar, 0, 255)
_MSL_INTEGER_LIMITS(short, -32768, 32767)
_MSL_INTEGER_LIMITS(ushort, 0, 65535)
_MSL_INTEGER_LIMITS(int, INT_MIN, INT_MAX)
_MSL_INTEGER_LIMITS(uint, 0, UINT_MAX)
_MSL_INTEGER_LIMITS(long, -0x7fffffffffffffffl - 1, 0x7fffffffffffffffl)
_MSL_INTEGER_LIMITS(ulong, 0, ~0ul)
#define _MSL_FLOAT_LIMITS(T, HIGH, TINY, STEP)                       \
  template <>                                                        \
  struct numeric_limits<T> {                                         \
    static constexpr bool is_integer = false;                        \
    static constexpr bool is_signed = true;                          \
    static constexpr bool has_infinity = true;                       \
    static constexpr T max() { return (T)(HIGH); }                   \
    static constexpr T min() { return (T)(TINY); }                   \
    static constexpr T lowest() { return (T) - (HIGH); }             \
    static constexpr T epsilon() { return (T)(STEP); }               \
    static constexpr T infinity() { return (T)__builtin_inff(); }    \
    static constexpr T quiet_NaN() { return (T)__builtin_nanf(""); } \
  };
_MSL_FLOAT_LIMITS(float, FLT_MAX, FLT_MIN, FLT_EPSILON)
_MSL_FLOAT_LIMITS(half, 65504.0f, 6.103515625e-05f, 9.765625e-04f)
_MSL_FLOAT_LIMITS(bfloat, 3.38953139e38f, 1.175494351e-38f, 7.8125e-3f)
}  // namespace metal
