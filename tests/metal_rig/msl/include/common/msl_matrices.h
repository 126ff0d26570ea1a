// <metal_matrix>: columns of vectors. Products of two matrices and transpose are left out.
#pragma once
namespace metal {
template <class T, int C, int R = C>
struct matrix {
  vec<T, R> __columns[C];
  matrix() = default;
  explicit constexpr matrix(T diagonal) : __columns{} {
    for (int i = 0; i < C; i++) {
      __columns[i] = vec<T, R>((T)0);
      if (i < R) __columns[i].__s[i] = diagonal;
    }
  }
  template <class... V, class = enable_if_t<sizeof...(V) == C && (C > 1) &&
                                            (true && ... && is_same_v<V, vec<T, R>>)>>
  constexpr matrix(V... v) : __columns{v...} {}
  template <class U, class = enable_if_t<!is_same_v<U, T>>>
  explicit constexpr matrix(const matrix<U, C, R>& m) : __columns{} {
    for (int i = 0; i < C; i++) __columns[i] = vec<T, R>(m.__columns[i]);
  }
  constexpr vec<T, R>& operator[](int i) { return __columns[i]; }
  constexpr const vec<T, R>& operator[](int i) const { return __columns[i]; }
};
template <class T, int C, int R>
constexpr vec<T, R> operator*(const matrix<T, C, R>& m, vec<T, C> v) {
  vec<T, R> r((T)0);
  for (int i = 0; i < C; i++) r += m.__columns[i] * v.__s[i];
  return r;
}
template <class T, int C, int R>
constexpr matrix<T, C, R> operator*(const matrix<T, C, R>& m, __identity_t<T> factor) {
  matrix<T, C, R> r{};
  for (int i = 0; i < C; i++) r.__columns[i] = m.__columns[i] * factor;
  return r;
}
template <class T, int C, int R>
constexpr matrix<T, C, R> operator+(const matrix<T, C, R>& a, const matrix<T, C, R>& b) {
  matrix<T, C, R> r{};
  for (int i = 0; i < C; i++) r.__columns[i] = a.__columns[i] + b.__columns[i];
  return r;
}
}  // namespace metal
