// <metal_type_traits>
#pragma once
namespace metal {
template <class T, T v>
struct integral_constant {
  static constexpr T value = v;
  typedef T value_type;
  typedef integral_constant type;
  constexpr operator T() const { return v; }
};
template <bool B>
using bool_constant = integral_constant<bool, B>;
typedef bool_constant<true> true_type;
typedef bool_constant<false> false_type;

template <class A, class B>
constexpr bool is_same_v = __is_same(A, B);
template <class A, class B>
struct is_same : bool_constant<__is_same(A, B)> {};

template <bool B, class T = void>
struct enable_if {};
template <class T>
struct enable_if<true, T> {
  typedef T type;
};
template <bool B, class T = void>
using enable_if_t = typename enable_if<B, T>::type;

template <bool B, class T, class F>
struct conditional {
  typedef T type;
};
template <class T, class F>
struct conditional<false, T, F> {
  typedef F type;
};
template <bool B, class T, class F>
using conditional_t = typename conditional<B, T, F>::type;

template <class T>
using remove_reference_t = __remove_reference_t(T);
template <class T>
struct remove_reference {
  typedef remove_reference_t<T> type;
};
template <class T>
using remove_cv_t = __remove_cv(T);
template <class T>
struct remove_cv {
  typedef remove_cv_t<T> type;
};
template <class T>
struct remove_const {
  typedef T type;
};
template <class T>
struct remove_const<const T> {
  typedef T type;
};
template <class T>
struct remove_pointer {
  typedef T type;
};
template <class T>
struct remove_pointer<T*> {
  typedef T type;
};
// A parameter of this type takes no part in template deduction.
template <class T>
struct __identity {
  typedef T type;
};
template <class T>
using __identity_t = typename __identity<T>::type;

template <class T>
constexpr bool is_floating_point_v =
    is_same_v<remove_cv_t<T>, float> || is_same_v<remove_cv_t<T>, half> ||
    is_same_v<remove_cv_t<T>, bfloat>;
template <class T>
struct is_floating_point : bool_constant<is_floating_point_v<T>> {};
template <class T>
constexpr bool is_integral_v = __is_integral(T);
template <class T>
struct is_integral : bool_constant<is_integral_v<T>> {};
template <class T>
constexpr bool is_arithmetic_v = is_integral_v<T> || is_floating_point_v<T>;
template <class T>
struct is_arithmetic : bool_constant<is_arithmetic_v<T>> {};
template <class T>
constexpr bool is_signed_v = is_floating_point_v<T> || (T(-1) < T(0));
template <class T>
struct is_signed : bool_constant<is_signed_v<T>> {};
template <class T>
constexpr bool is_unsigned_v = is_integral_v<T> && !is_signed_v<T>;
template <class T>
struct is_unsigned : bool_constant<is_unsigned_v<T>> {};
template <class A, class B>
constexpr bool is_convertible_v = __is_convertible(A, B);
template <class A, class B>
struct is_convertible : bool_constant<is_convertible_v<A, B>> {};
template <class T>
constexpr bool is_pointer_v = __is_pointer(T);
template <class T>
T&& declval();
template <class T>
struct make_unsigned {
  typedef __make_unsigned(T) type;
};
template <class T>
struct make_signed {
  typedef __make_signed(T) type;
};

template <class T, size_t N>
struct array {
  T __elements[N];
  constexpr T& operator[](size_t i) { return __elements[i]; }
  constexpr const T& operator[](size_t i) const { return __elements[i]; }
  constexpr size_t size() const { return N; }
};

template <class D, class S>
constexpr D as_type(S value) {
  static_assert(sizeof(D) == sizeof(S), "as_type: sizes differ");
  return __builtin_bit_cast(D, value);
}
}  // namespace metal
using metal::as_type;
