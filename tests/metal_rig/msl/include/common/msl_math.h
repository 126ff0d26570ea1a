// <metal_math>, <metal_common>, <metal_geometric>. Overloads exist for float and half only: Metal
// has none for bfloat, and a shim that had would accept kernels that Apple's compiler rejects;
// bfloat's conversion to float would accept them too, so those overloads are deleted. The target
// supplies __msl_exp(float) and so on.
#pragma once
namespace metal {
#define _MSL_VECTOR_1(f)                          \
  template <class T, int N>                       \
  inline vec<T, N> f(vec<T, N> a) {               \
    vec<T, N> r{};                                \
    _MSL_UNROLL _MSL_EACH r.__s[i] = f(a.__s[i]); \
    return r;                                     \
  }
#define _MSL_VECTOR_2(f)                                       \
  template <class T, int N>                                    \
  inline vec<T, N> f(vec<T, N> a, __identity_t<vec<T, N>> b) { \
    vec<T, N> r{};                                             \
    _MSL_UNROLL _MSL_EACH r.__s[i] = f(a.__s[i], b.__s[i]);    \
    return r;                                                  \
  }                                                            \
  template <class T, int N, class S, class = __if_scalar<S>>   \
  inline vec<T, N> f(S a, vec<T, N> b) {                       \
    return f(vec<T, N>((T)a), b);                              \
  }
#define _MSL_VECTOR_3(f)                                                                  \
  template <class T, int N>                                                               \
  inline vec<T, N> f(vec<T, N> a, __identity_t<vec<T, N>> b, __identity_t<vec<T, N>> c) { \
    vec<T, N> r{};                                                                        \
    _MSL_UNROLL _MSL_EACH r.__s[i] = f(a.__s[i], b.__s[i], c.__s[i]);                     \
    return r;                                                                             \
  }
#define _MSL_FUNCTION_1(f, ...)                   \
  inline float f(float x) { return __VA_ARGS__; } \
  inline half f(half h) {                         \
    const float x = h;                            \
    return (half)(__VA_ARGS__);                   \
  }                                               \
  float f(bfloat) = delete;                       \
  _MSL_VECTOR_1(f)
#define _MSL_FUNCTION_2(f, ...)                            \
  inline float f(float x, float y) { return __VA_ARGS__; } \
  inline half f(half a, half b) {                          \
    const float x = a, y = b;                              \
    return (half)(__VA_ARGS__);                            \
  }                                                        \
  float f(bfloat, bfloat) = delete;                        \
  _MSL_VECTOR_2(f)

// The functions that also exist as fast:: and precise::.
#define _MSL_TRANSCENDENTAL_1(M)                                                                 \
  M(exp)                                                                                         \
  M(exp2) M(exp10) M(log) M(log2) M(log10) M(sqrt) M(rsqrt) M(sin) M(cos) M(tan) M(sinh) M(cosh) \
      M(tanh) M(asin) M(acos) M(atan) M(asinh) M(acosh) M(atanh)
#define _MSL_TRANSCENDENTAL_2(M) M(pow) M(powr) M(atan2) M(fmod) M(fmin) M(fmax)
#define _MSL_DEFINE_1(f) _MSL_FUNCTION_1(f, __msl_##f(x))
#define _MSL_DEFINE_2(f) _MSL_FUNCTION_2(f, __msl_##f(x, y))
_MSL_TRANSCENDENTAL_1(_MSL_DEFINE_1)
_MSL_TRANSCENDENTAL_2(_MSL_DEFINE_2)

_MSL_FUNCTION_1(fabs, __builtin_fabsf(x))
_MSL_FUNCTION_1(floor, __builtin_floorf(x))
_MSL_FUNCTION_1(ceil, __builtin_ceilf(x))
_MSL_FUNCTION_1(round, __builtin_roundf(x))
_MSL_FUNCTION_1(rint, __builtin_rintf(x))
_MSL_FUNCTION_1(trunc, __builtin_truncf(x))
_MSL_FUNCTION_1(fract, x - __builtin_floorf(x))
_MSL_FUNCTION_1(sign, (x > 0.f ? 1.f : x < 0.f ? -1.f : x == x ? x : 0.f))
_MSL_FUNCTION_1(saturate, __builtin_fminf(__builtin_fmaxf(x, 0.f), 1.f))
_MSL_FUNCTION_2(copysign, __builtin_copysignf(x, y))
_MSL_FUNCTION_2(step, (y < x ? 0.f : 1.f))
_MSL_FUNCTION_2(fdim, (x > y ? x - y : 0.f))
inline float fma(float a, float b, float c) { return __builtin_fmaf(a, b, c); }
inline half fma(half a, half b, half c) { return (half)__builtin_fmaf(a, b, c); }
_MSL_VECTOR_3(fma)
inline float mix(float a, float b, float t) { return a + (b - a) * t; }
_MSL_VECTOR_3(mix)
inline float ldexp(float x, int e) { return __msl_ldexp(x, e); }
inline bool isnan(float x) { return x != x; }
inline bool isnan(half x) { return x != x; }
inline bool isinf(float x) { return __builtin_fabsf(x) == INFINITY; }
inline bool isinf(half x) { return isinf((float)x); }
inline bool isfinite(float x) { return __builtin_fabsf(x) < INFINITY; }
inline bool isfinite(half x) { return isfinite((float)x); }
inline bool signbit(float x) { return as_type<uint>(x) >> 31; }

#define _MSL_EACH_SCALAR(M) \
  M(char) M(int8_t) M(uchar) M(short) M(ushort) M(int) M(uint) M(long) M(ulong) M(half) M(float)
#define _MSL_ORDER(T)                                                \
  constexpr T min(T a, T b) { return b < a ? b : a; }                \
  constexpr T max(T a, T b) { return a < b ? b : a; }                \
  constexpr T clamp(T x, T lo, T hi) { return min(max(x, lo), hi); } \
  constexpr T min3(T a, T b, T c) { return min(a, min(b, c)); }      \
  constexpr T max3(T a, T b, T c) { return max(a, max(b, c)); }      \
  constexpr T select(T a, T b, bool c) { return c ? b : a; }
_MSL_EACH_SCALAR(_MSL_ORDER)
bfloat min(bfloat, bfloat) = delete;
bfloat max(bfloat, bfloat) = delete;
_MSL_VECTOR_2(min)
_MSL_VECTOR_2(max)
_MSL_VECTOR_3(clamp)
#define _MSL_ABS(T) \
  constexpr T abs(T a) { return a < (T)0 ? (T) - a : a; }
_MSL_ABS(char)
_MSL_ABS(short)
_MSL_ABS(int)
_MSL_ABS(long)
inline float abs(float x) { return __builtin_fabsf(x); }
inline half abs(half x) { return fabs(x); }
_MSL_VECTOR_1(abs)

template <class T, int N>
inline vec<T, N> select(vec<T, N> a, vec<T, N> b, vec<bool, N> c) {
  _MSL_UNROLL _MSL_EACH a.__s[i] = c.__s[i] ? b.__s[i] : a.__s[i];
  return a;
}
template <class T, int N>
inline T dot(vec<T, N> a, vec<T, N> b) {
  T r = (T)(a.__s[0] * b.__s[0]);
  _MSL_UNROLL for (int i = 1; i < N; i++) r = (T)(r + a.__s[i] * b.__s[i]);
  return r;
}
template <class T, int N>
inline T length(vec<T, N> a) {
  return sqrt(dot(a, a));
}
template <class T, int N>
inline bool any(vec<T, N> a) {
  bool r = false;
  _MSL_UNROLL _MSL_EACH r |= !!a.__s[i];
  return r;
}
template <class T, int N>
inline bool all(vec<T, N> a) {
  bool r = true;
  _MSL_UNROLL _MSL_EACH r &= !!a.__s[i];
  return r;
}

#define _MSL_USING(f) using metal::f;
namespace fast {
_MSL_TRANSCENDENTAL_1(_MSL_USING)
_MSL_TRANSCENDENTAL_2(_MSL_USING)
using metal::abs;
using metal::clamp;
using metal::fabs;
using metal::max;
using metal::min;
}  // namespace fast
namespace precise {
_MSL_TRANSCENDENTAL_1(_MSL_USING)
_MSL_TRANSCENDENTAL_2(_MSL_USING)
using metal::abs;
using metal::clamp;
using metal::fabs;
using metal::fma;
using metal::max;
using metal::min;
}  // namespace precise
}  // namespace metal
