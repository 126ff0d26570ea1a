// Matrices of random numbers in any element type of GGUF.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "program/ops.h"

namespace quarrel::bench {

// Elements of about unit variance times `size`; the same bytes for the same seed everywhere.
Weight random_weight(std::string name, DType dtype, std::size_t n_rows, std::size_t n_cols,
                     float size, std::uint64_t seed);

// One row of float32 ones, for norms.
Weight ones(std::string name, std::size_t n_cols);

// The shape alone, for asking a device what it supports: its memory is never touched.
Weight blank_weight(DType dtype, std::size_t n_rows, std::size_t n_cols);

}  // namespace quarrel::bench
