// 8x8 matrices spread over a simdgroup: loads, stores and construction. The target says which lane
// holds which elements (__msl_matrix_place) and multiplies (__msl_matrix_multiply).
#pragma once
namespace metal {
template <class T, int R, int C>
struct simdgroup_matrix {
  static_assert(R == 8 && C == 8, "simdgroup_matrix: 8x8 only");
  typedef vec<T, 2> storage_type;
  vec<T, 2> __elements;  // of row `row`, columns `column` and `column` + 1
  simdgroup_matrix() = default;
  explicit simdgroup_matrix(T diagonal) {
    uint row, column;
    __msl_matrix_place(__msl_lane_index(), row, column);
    __elements = vec<T, 2>(row == column ? diagonal : (T)0, row == column + 1 ? diagonal : (T)0);
  }
  vec<T, 2>& thread_elements() { return __elements; }
  const vec<T, 2>& thread_elements() const { return __elements; }
};
template <class T, int R, int C = R>
inline simdgroup_matrix<T, R, C> make_filled_simdgroup_matrix(T value) {
  simdgroup_matrix<T, R, C> m;
  m.__elements = vec<T, 2>(value);
  return m;
}
template <class T, int R, int C = R>
inline simdgroup_matrix<T, R, C> make_diagonal_simdgroup_matrix(T value) {
  return simdgroup_matrix<T, R, C>(value);
}
template <class T, class U>
inline void simdgroup_load(simdgroup_matrix<T, 8, 8>& m, const U* from, ulong row_stride = 8,
                           vec<ulong, 2> origin = vec<ulong, 2>(0ul), bool transpose = false) {
  static_assert(is_same_v<T, remove_cv_t<U>>, "simdgroup_load: element types differ");
  uint row, column;
  __msl_matrix_place(__msl_lane_index(), row, column);
  from += origin.__s[1] * row_stride + origin.__s[0];
  m.__elements.__s[0] =
      transpose ? from[column * row_stride + row] : from[row * row_stride + column];
  m.__elements.__s[1] =
      transpose ? from[(column + 1) * row_stride + row] : from[row * row_stride + column + 1];
}
template <class T>
inline void simdgroup_store(simdgroup_matrix<T, 8, 8> m, T* to, ulong row_stride = 8,
                            vec<ulong, 2> origin = vec<ulong, 2>(0ul), bool transpose = false) {
  uint row, column;
  __msl_matrix_place(__msl_lane_index(), row, column);
  to += origin.__s[1] * row_stride + origin.__s[0];
  to[transpose ? column * row_stride + row : row * row_stride + column] = m.__elements.__s[0];
  to[transpose ? (column + 1) * row_stride + row : row * row_stride + column + 1] =
      m.__elements.__s[1];
}
template <class TD, class TA, class TB, class TC>
_MSL_CROSS_LANE void simdgroup_multiply_accumulate(simdgroup_matrix<TD, 8, 8>& d,
                                                   simdgroup_matrix<TA, 8, 8> a,
                                                   simdgroup_matrix<TB, 8, 8> b,
                                                   simdgroup_matrix<TC, 8, 8> c) {
  const vec<float, 2> sum =
      __msl_matrix_multiply(a.__elements, b.__elements, vec<float, 2>(c.__elements));
  d.__elements = vec<TD, 2>((TD)sum.__s[0], (TD)sum.__s[1]);
}
template <class TD, class TA, class TB>
_MSL_CROSS_LANE void simdgroup_multiply(simdgroup_matrix<TD, 8, 8>& d, simdgroup_matrix<TA, 8, 8> a,
                                        simdgroup_matrix<TB, 8, 8> b) {
  const vec<float, 2> product =
      __msl_matrix_multiply(a.__elements, b.__elements, vec<float, 2>(0.f));
  d.__elements = vec<TD, 2>((TD)product.__s[0], (TD)product.__s[1]);
}
typedef simdgroup_matrix<float, 8, 8> simdgroup_float8x8;
typedef simdgroup_matrix<half, 8, 8> simdgroup_half8x8;
typedef simdgroup_matrix<bfloat, 8, 8> simdgroup_bfloat8x8;
}  // namespace metal
