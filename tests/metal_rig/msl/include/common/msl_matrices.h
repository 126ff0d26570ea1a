// <metal_matrix>: columns of vectors, construction and element access only.
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
  constexpr vec<T, R>& operator[](int i) { return __columns[i]; }
  constexpr const vec<T, R>& operator[](int i) const { return __columns[i]; }
};
}  // namespace metal
