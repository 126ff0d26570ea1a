// vec<T, N> and packed_vec<T, N>. Clang's ext_vector_type does not fit: plain C++ refuses
// float4(a, b, c, d), and float4(half4) would reinterpret. Swizzles are clang properties, which
// give real vec types, so that v.xy += w and template deduction both work; the compiler generates
// msl_swizzles_<N>.h (see swizzles.py).
//
// Functions take vectors by value: a loop over a reference into device memory would lose the
// vector's alignment, and with it 8- and 16-byte loads.
#pragma once
namespace metal {
template <class T, int N>
struct vec;
template <class T, int N>
struct packed_vec;

template <class T>
constexpr bool __scalar_v = is_arithmetic_v<remove_cv_t<T>>;
template <class S>
using __if_scalar = enable_if_t<__scalar_v<S>>;

// How many elements a constructor's argument contributes; too few to ever fit if it is no vector.
template <class T>
constexpr int __n_elements = __scalar_v<T> ? 1 : -1000;
template <class T, int N>
constexpr int __n_elements<vec<T, N>> = N;

template <class D, class S, class = __if_scalar<S>>
constexpr void __append(D* to, int& i, S value) {
  to[i++] = (D)value;
}
template <class D, class T, int N>
constexpr void __append(D* to, int& i, vec<T, N> v) {
  for (int k = 0; k < N; k++) to[i++] = (D)v.__s[k];
}

// A target may have conversions of its own.
template <class T, class U, int N>
constexpr void __convert(vec<T, N>& to, vec<U, N> from) {
  for (int i = 0; i < N; i++) to.__s[i] = (T)from.__s[i];
}

#define _MSL_UNROLL _Pragma("clang loop unroll(full)")
#define _MSL_EACH for (int i = 0; i < N; i++)

#define _MSL_VECTOR_MEMBERS(COUNT, STORED)                                                         \
  static constexpr int N = COUNT;                                                                  \
  T __s[STORED];                                                                                   \
  typedef T element_type;                                                                          \
  vec() = default;                                                                                 \
  constexpr vec(T value) : __s{} { _MSL_EACH __s[i] = value; }                                     \
  template <class S, class Q = T,                                                                  \
            class = enable_if_t<__scalar_v<S> && is_same_v<Q, bfloat> && !is_same_v<S, bfloat>>>   \
  constexpr vec(S value) : vec((T)value) {}                                                        \
  template <class U, class = enable_if_t<!is_same_v<U, T>>>                                        \
  explicit constexpr vec(vec<U, N> v) : __s{} {                                                    \
    __convert(*this, v);                                                                           \
  }                                                                                                \
  template <class U>                                                                               \
  explicit constexpr vec(packed_vec<U, N> v) : __s{} {                                             \
    _MSL_EACH __s[i] = (T)v.__s[i];                                                                \
  }                                                                                                \
  template <class A, class B, class... C,                                                          \
            class =                                                                                \
                enable_if_t<__n_elements<A> + __n_elements<B> + (0 + ... + __n_elements<C>) == N>> \
  constexpr vec(A a, B b, C... c) : __s{} {                                                        \
    int i = 0;                                                                                     \
    __append(__s, i, a), __append(__s, i, b), (__append(__s, i, c), ...);                          \
  }                                                                                                \
  constexpr T& operator[](size_t i) { return __s[i]; }                                             \
  constexpr const T& operator[](size_t i) const { return __s[i]; }

template <class T>
struct alignas(2 * sizeof(T)) vec<T, 2> {
  _MSL_VECTOR_MEMBERS(2, 2)
#include "msl_swizzles_2.h"
};
template <class T>
struct alignas(4 * sizeof(T)) vec<T, 3> {
  _MSL_VECTOR_MEMBERS(3, 4)
#include "msl_swizzles_3.h"
};
template <class T>
struct alignas(4 * sizeof(T)) vec<T, 4> {
  _MSL_VECTOR_MEMBERS(4, 4)
#include "msl_swizzles_4.h"
};

#define _MSL_ARITHMETIC(op)                                        \
  template <class T, int N>                                        \
  constexpr vec<T, N> operator op(vec<T, N> a, vec<T, N> b) {      \
    vec<T, N> r{};                                                 \
    _MSL_UNROLL _MSL_EACH r.__s[i] = (T)(a.__s[i] op b.__s[i]);    \
    return r;                                                      \
  }                                                                \
  template <class T, int N, class S, class = __if_scalar<S>>       \
  constexpr vec<T, N> operator op(vec<T, N> a, S b) {              \
    return a op vec<T, N>((T)b);                                   \
  }                                                                \
  template <class T, int N, class S, class = __if_scalar<S>>       \
  constexpr vec<T, N> operator op(S a, vec<T, N> b) {              \
    return vec<T, N>((T)a) op b;                                   \
  }                                                                \
  template <class T, int N>                                        \
  constexpr vec<T, N>& operator op##=(vec<T, N>& a, vec<T, N> b) { \
    return a = a op b;                                             \
  }                                                                \
  template <class T, int N, class S, class = __if_scalar<S>>       \
  constexpr vec<T, N>& operator op##=(vec<T, N>& a, S b) {         \
    return a = a op vec<T, N>((T)b);                               \
  }
_MSL_ARITHMETIC(+)
_MSL_ARITHMETIC(-)
_MSL_ARITHMETIC(*)
_MSL_ARITHMETIC(/)
_MSL_ARITHMETIC(%)
_MSL_ARITHMETIC(&)
_MSL_ARITHMETIC(|)
_MSL_ARITHMETIC(^)
_MSL_ARITHMETIC(<<)
_MSL_ARITHMETIC(>>)

#define _MSL_COMPARISON(op)                                      \
  template <class T, int N>                                      \
  constexpr vec<bool, N> operator op(vec<T, N> a, vec<T, N> b) { \
    vec<bool, N> r{};                                            \
    _MSL_UNROLL _MSL_EACH r.__s[i] = a.__s[i] op b.__s[i];       \
    return r;                                                    \
  }                                                              \
  template <class T, int N, class S, class = __if_scalar<S>>     \
  constexpr vec<bool, N> operator op(vec<T, N> a, S b) {         \
    return a op vec<T, N>((T)b);                                 \
  }                                                              \
  template <class T, int N, class S, class = __if_scalar<S>>     \
  constexpr vec<bool, N> operator op(S a, vec<T, N> b) {         \
    return vec<T, N>((T)a) op b;                                 \
  }
_MSL_COMPARISON(==)
_MSL_COMPARISON(!=)
_MSL_COMPARISON(<)
_MSL_COMPARISON(<=)
_MSL_COMPARISON(>)
_MSL_COMPARISON(>=)
_MSL_COMPARISON(&&)
_MSL_COMPARISON(||)

#define _MSL_PREFIX(R, op)                             \
  template <class T, int N>                            \
  constexpr vec<R, N> operator op(vec<T, N> a) {       \
    vec<R, N> r{};                                     \
    _MSL_UNROLL _MSL_EACH r.__s[i] = (R)(op a.__s[i]); \
    return r;                                          \
  }
_MSL_PREFIX(T, -)
_MSL_PREFIX(T, ~)
_MSL_PREFIX(bool, !)

template <class T, int N>
struct packed_vec {
  T __s[N];
  packed_vec() = default;
  constexpr packed_vec(vec<T, N> v) : __s{} { _MSL_EACH __s[i] = v.__s[i]; }
  constexpr operator vec<T, N>() const {
    vec<T, N> r{};
    _MSL_EACH r.__s[i] = __s[i];
    return r;
  }
  constexpr T& operator[](size_t i) { return __s[i]; }
  constexpr const T& operator[](size_t i) const { return __s[i]; }
};
}  // namespace metal
