// The operations once more in plain float64, for comparison.
#pragma once

#include <cstddef>
#include <span>
#include <vector>

#include "cache/kv_cache.h"
#include "program/ops.h"

namespace quarrel::bench::reference {

using Vector = std::vector<double>;
using Matrix = std::vector<Vector>;  // rows

Matrix expand(const Weight& weight);
// What comes back from a cache of this type. Types whose rounding is the device's own affair (those
// with blocks) come back as they are.
Vector stored(DType dtype, const Vector& row);

Vector linear(const Matrix& weight, const Vector& x);
Vector rms_norm(const Vector& x, double eps);  // weight of ones
// Rotates each head by pairs (2i, 2i + 1), or by halves.
void rope(Vector& x, const RopeTable& table, std::size_t head_dim, std::size_t position);
Vector silu_mul(const Vector& gate, const Vector& up);
void add(Vector& x, const Vector& y);
// One query over the keys and values of positions 0, 1, ..., each [n_kv_heads * head_dim].
Vector attention(const Vector& q, std::span<const Vector> keys, std::span<const Vector> values,
                 std::size_t n_heads, std::size_t head_dim, const GroupSpec& mask);

// |x - expected| / |expected| over all rows; infinite where x is not a number.
double distance(std::span<const float> x, const Matrix& expected);

}  // namespace quarrel::bench::reference
