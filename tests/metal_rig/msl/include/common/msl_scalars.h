// Scalar types, macros and literals.
#pragma once
#define __METAL__ 1
#ifndef __METAL_VERSION__
#define __METAL_VERSION__ 310
#endif
#define __HAVE_BFLOAT__ 1
#define METAL_FUNC inline __attribute__((always_inline))

typedef signed char int8_t;
typedef short int16_t;
typedef int int32_t;
typedef long int64_t;
typedef unsigned char uint8_t, uchar;
typedef unsigned short uint16_t, ushort;
typedef unsigned int uint32_t, uint;
typedef unsigned long uint64_t, ulong;
typedef unsigned long size_t, uintptr_t;
typedef long ptrdiff_t, intptr_t;
typedef _Float16 half;

#define INFINITY __builtin_inff()
#define NAN __builtin_nanf("")
#define HUGE_VALF __builtin_inff()
#define MAXFLOAT 3.402823466e+38f
#define FLT_MAX 3.402823466e+38f
#define FLT_MIN 1.175494351e-38f
#define FLT_EPSILON 1.192092896e-07f
#define MAXHALF ((half)65504.0f)
#define HALF_MAX ((half)65504.0f)
#define HALF_MIN ((half)6.103515625e-05f)
#define INT_MAX 2147483647
#define INT_MIN (-2147483647 - 1)
#define UINT_MAX 4294967295u
#define SHRT_MAX 32767
#define USHRT_MAX 65535
#define CHAR_BIT 8
#define M_PI_F 3.14159274f
#define M_PI_2_F 1.57079637f
#define M_E_F 2.71828183f
#define M_LN2_F 0.693147182f
#define M_LOG2E_F 1.44269502f
#define M_SQRT2_F 1.41421354f
#define M_SQRT1_2_F 0.707106769f
#define M_PI_H ((half)3.14159274f)

// bfloat is a class: clang's __bf16 refuses casts to and from _Float16, and the libgcc of Debian 12
// lacks __truncsfbf2. Rounds to nearest even, as Metal does.
template <class S>
constexpr bool __is_bfloat_source = __is_arithmetic(S) || __is_same(S, _Float16);
template <bool B>
struct __if_bfloat_source {};
template <>
struct __if_bfloat_source<true> {
  typedef int type;
};

struct bfloat {
  unsigned short __bits;
  bfloat() = default;
  template <class S, typename __if_bfloat_source<__is_bfloat_source<S>>::type = 0>
  constexpr bfloat(S value) : __bits(__rounded((float)value)) {}
  constexpr operator float() const { return __builtin_bit_cast(float, (unsigned)__bits << 16); }
  constexpr bfloat operator-() const { return bfloat(-(float)*this); }
  constexpr bfloat operator+() const { return *this; }
  static constexpr unsigned short __rounded(float value) {
    const unsigned u = __builtin_bit_cast(unsigned, value);
    const bool nan = (u & 0x7fffffffu) > 0x7f800000u;
    return (unsigned short)(nan ? (u >> 16) | 0x40 : (u + 0x7fff + ((u >> 16) & 1)) >> 16);
  }
};

#define _MSL_BFLOAT_SCALAR \
  template <class S, typename __if_bfloat_source<__is_bfloat_source<S>>::type = 0>
#define _MSL_BFLOAT_ARITHMETIC(op)                                                               \
  constexpr bfloat operator op(bfloat a, bfloat b) { return bfloat((float)a op(float) b); }      \
  _MSL_BFLOAT_SCALAR constexpr float operator op(bfloat a, S b) { return (float)a op(float) b; } \
  _MSL_BFLOAT_SCALAR constexpr float operator op(S a, bfloat b) { return (float)a op(float) b; } \
  template <class S>                                                                             \
  constexpr bfloat& operator op##=(bfloat & a, S b) {                                            \
    return a = bfloat((float)a op(float) b);                                                     \
  }                                                                                              \
  _MSL_BFLOAT_SCALAR constexpr S& operator op##=(S & a, bfloat b) { return a = (S)(a op(float) b); }
_MSL_BFLOAT_ARITHMETIC(+)
_MSL_BFLOAT_ARITHMETIC(-)
_MSL_BFLOAT_ARITHMETIC(*)
_MSL_BFLOAT_ARITHMETIC(/)
#define _MSL_BFLOAT_COMPARISON(op)                                                              \
  constexpr bool operator op(bfloat a, bfloat b) { return (float)a op(float) b; }               \
  _MSL_BFLOAT_SCALAR constexpr bool operator op(bfloat a, S b) { return (float)a op(float) b; } \
  _MSL_BFLOAT_SCALAR constexpr bool operator op(S a, bfloat b) { return (float)a op(float) b; }
_MSL_BFLOAT_COMPARISON(==)
_MSL_BFLOAT_COMPARISON(!=)
_MSL_BFLOAT_COMPARISON(<)
_MSL_BFLOAT_COMPARISON(<=)
_MSL_BFLOAT_COMPARISON(>)
_MSL_BFLOAT_COMPARISON(>=)
