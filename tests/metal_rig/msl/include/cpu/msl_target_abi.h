// CPU target: the runtime's interface, float functions, literals, function constants.
#pragma once
#include "msl_abi.h"

#pragma clang diagnostic ignored "-Wuser-defined-literals"
constexpr half operator""h(long double x) { return (half)x; }
constexpr half operator""h(unsigned long long x) { return (half)x; }
constexpr bfloat operator"" bf(long double x) { return (bfloat)(float)x; }

#define _MSL_BUILTIN_1(name) \
  inline float __msl_##name(float x) { return __builtin_##name##f(x); }
_MSL_BUILTIN_1(exp)
_MSL_BUILTIN_1(exp2)
_MSL_BUILTIN_1(log)
_MSL_BUILTIN_1(log2)
_MSL_BUILTIN_1(log10)
_MSL_BUILTIN_1(sqrt)
_MSL_BUILTIN_1(sin)
_MSL_BUILTIN_1(cos)
_MSL_BUILTIN_1(tan)
_MSL_BUILTIN_1(sinh)
_MSL_BUILTIN_1(cosh)
_MSL_BUILTIN_1(tanh)
_MSL_BUILTIN_1(asin)
_MSL_BUILTIN_1(acos)
_MSL_BUILTIN_1(atan)
_MSL_BUILTIN_1(asinh)
_MSL_BUILTIN_1(acosh)
_MSL_BUILTIN_1(atanh)
inline float __msl_exp10(float x) { return __builtin_powf(10.f, x); }
inline float __msl_rsqrt(float x) { return 1.0f / __builtin_sqrtf(x); }
#define _MSL_BUILTIN_2(name) \
  inline float __msl_##name(float x, float y) { return __builtin_##name##f(x, y); }
_MSL_BUILTIN_2(pow)
_MSL_BUILTIN_2(atan2)
_MSL_BUILTIN_2(fmod)
_MSL_BUILTIN_2(fmin)
_MSL_BUILTIN_2(fmax)
inline float __msl_powr(float x, float y) { return __builtin_powf(x, y); }
inline float __msl_ldexp(float x, int e) { return __builtin_ldexpf(x, e); }

// Read by a library's static initialisers, while msl_load() publishes the values.
template <class T>
inline T __msl_constant(uint index) {
  T value{};
  __msl_function_constant(index, &value, sizeof value);
  return value;
}
inline bool __msl_constant_defined(uint index) {
  return __msl_function_constant(index, nullptr, 0);
}
