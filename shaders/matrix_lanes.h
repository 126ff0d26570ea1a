// What a lane holds of a matrix of 8x8: two neighbouring columns of one row.
#pragma once
#include "common.h"

// Which lane has which elements is the GPU's secret: a matrix that holds its own indices tells.
// `stage` is the simdgroup's, 64 elements. A simdgroup barrier has to follow.
inline void store_indices(threadgroup half* stage, uint lane) {
  stage[2 * lane] = half(2 * lane);
  stage[2 * lane + 1] = half(2 * lane + 1);
}
// The row of a matrix of which a lane has columns 2 * pair and 2 * pair + 1.
inline void read_indices(thread uint& row, thread uint& pair, threadgroup const half* stage) {
  simdgroup_half8x8 indices;
  simdgroup_load(indices, stage, 8);
  const uint first = uint(indices.thread_elements()[0]);
  row = first / 8 % 8;
  pair = first / 2 % 4;
}

inline void set_elements(thread simdgroup_half8x8& matrix, half2 elements) {
  (thread half2&)matrix.thread_elements() = elements;
}
inline void set_elements(thread simdgroup_float8x8& matrix, float2 elements) {
  matrix.thread_elements()[0] = elements.x;
  matrix.thread_elements()[1] = elements.y;
}
