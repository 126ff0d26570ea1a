// float4, packed_half2, float4x4 and their like.
#pragma once
#define _MSL_VECTOR_NAMES(T)                     \
  typedef metal::vec<T, 2> T##2;                 \
  typedef metal::vec<T, 3> T##3;                 \
  typedef metal::vec<T, 4> T##4;                 \
  typedef metal::packed_vec<T, 2> packed_##T##2; \
  typedef metal::packed_vec<T, 3> packed_##T##3; \
  typedef metal::packed_vec<T, 4> packed_##T##4;
_MSL_VECTOR_NAMES(bool)
_MSL_VECTOR_NAMES(char)
_MSL_VECTOR_NAMES(uchar)
_MSL_VECTOR_NAMES(short)
_MSL_VECTOR_NAMES(ushort)
_MSL_VECTOR_NAMES(int)
_MSL_VECTOR_NAMES(uint)
_MSL_VECTOR_NAMES(long)
_MSL_VECTOR_NAMES(ulong)
_MSL_VECTOR_NAMES(half)
_MSL_VECTOR_NAMES(bfloat)
_MSL_VECTOR_NAMES(float)
#define _MSL_MATRIX_NAMES(T)             \
  typedef metal::matrix<T, 2, 2> T##2x2; \
  typedef metal::matrix<T, 2, 3> T##2x3; \
  typedef metal::matrix<T, 2, 4> T##2x4; \
  typedef metal::matrix<T, 3, 2> T##3x2; \
  typedef metal::matrix<T, 3, 3> T##3x3; \
  typedef metal::matrix<T, 3, 4> T##3x4; \
  typedef metal::matrix<T, 4, 2> T##4x2; \
  typedef metal::matrix<T, 4, 3> T##4x3; \
  typedef metal::matrix<T, 4, 4> T##4x4;
_MSL_MATRIX_NAMES(float)
_MSL_MATRIX_NAMES(half)
