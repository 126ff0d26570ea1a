#include "reference.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <numeric>

#include "gguf/dequantize.h"
#include "texts.h"

namespace quarrel::bench::reference {
namespace {

// Eight sums side by side, which a compiler may keep in registers.
double dot(const double* a, const double* b, std::size_t n) {
  std::array<double, 8> sums{};
  std::size_t i = 0;
  for (; i + sums.size() <= n; i += sums.size())
    for (std::size_t lane = 0; lane < sums.size(); ++lane) sums[lane] += a[i + lane] * b[i + lane];
  for (; i < n; ++i) sums[0] += a[i] * b[i];
  return std::accumulate(sums.begin(), sums.end(), 0.0);
}

bool has_blocks(DType dtype) { return traits(dtype).block_elements > 1; }

}  // namespace

Matrix expand(const Weight& weight) {
  Matrix rows;
  std::vector<float> row(weight.n_cols);
  const std::size_t n_bytes = row_bytes(weight.dtype, weight.n_cols);
  for (std::size_t i = 0; i < weight.n_rows; ++i) {
    gguf::dequantize_row(weight.dtype, weight.data.data() + i * n_bytes, row.data(), row.size());
    rows.emplace_back(row.begin(), row.end());
  }
  return rows;
}

Vector stored(DType dtype, const Vector& row) {
  if (has_blocks(dtype)) return row;
  std::vector<float> values(row.begin(), row.end());
  std::vector<std::byte> bytes(row_bytes(dtype, values.size()));
  gguf::quantize_row(dtype, values.data(), bytes.data(), values.size());
  gguf::dequantize_row(dtype, bytes.data(), values.data(), values.size());
  return {values.begin(), values.end()};
}

Vector linear(const Matrix& weight, const Vector& x) {
  Vector y;
  for (const Vector& row : weight) y.push_back(dot(row.data(), x.data(), x.size()));
  return y;
}

Vector rms_norm(const Vector& x, double eps) {
  const double scale =
      1 / std::sqrt(dot(x.data(), x.data(), x.size()) / static_cast<double>(x.size()) + eps);
  Vector y = x;
  for (double& value : y) value *= scale;
  return y;
}

void rope(Vector& x, const RopeTable& table, std::size_t head_dim, std::size_t position) {
  const std::size_t n = table.inverse_frequencies.size();
  for (std::size_t head = 0; head < x.size(); head += head_dim)
    for (std::size_t i = 0; i < n; ++i) {
      double& a = x[head + (table.interleaved ? 2 * i : i)];
      double& b = x[head + (table.interleaved ? 2 * i + 1 : i + n)];
      const double angle = static_cast<double>(position) * table.inverse_frequencies[i];
      const double rotated = a * std::cos(angle) - b * std::sin(angle);
      b = a * std::sin(angle) + b * std::cos(angle);
      a = rotated;
    }
}

Vector silu_mul(const Vector& gate, const Vector& up) {
  Vector y;
  for (std::size_t i = 0; i < gate.size(); ++i)
    y.push_back(gate[i] / (1 + std::exp(-gate[i])) * up[i]);
  return y;
}

void add(Vector& x, const Vector& y) {
  for (std::size_t i = 0; i < x.size(); ++i) x[i] += y[i];
}

Vector attention(const Vector& q, std::span<const Vector> keys, std::span<const Vector> values,
                 std::size_t n_heads, std::size_t head_dim, const GroupSpec& mask) {
  const std::size_t n_kv_heads = keys[0].size() / head_dim;
  const double scale = 1 / std::sqrt(static_cast<double>(head_dim));
  Vector y(q.size(), 0.0);
  for (std::size_t head = 0; head < n_heads; ++head) {
    const std::size_t kv = head / (n_heads / n_kv_heads) * head_dim;
    Vector scores;
    for (std::size_t j = 0; j < keys.size(); ++j)
      scores.push_back(is_visible(mask, keys.size() - 1, j)
                           ? scale * dot(&q[head * head_dim], &keys[j][kv], head_dim)
                           : -std::numeric_limits<double>::infinity());
    const double largest = std::ranges::max(scores);
    double total = 0;
    for (double& score : scores) total += score = std::exp(score - largest);
    for (std::size_t j = 0; j < keys.size(); ++j)
      for (std::size_t i = 0; i < head_dim; ++i)
        y[head * head_dim + i] += scores[j] / total * values[j][kv + i];
  }
  return y;
}

double distance(std::span<const float> x, const Matrix& expected) {
  double error = 0;
  double size = 0;
  const float* next = x.data();
  for (const Vector& row : expected)
    for (const double value : row) {
      const double difference = static_cast<double>(*next++) - value;
      error += difference * difference;
      size += value * value;
    }
  const double ratio = std::sqrt(error / size);
  return std::isnan(ratio) ? std::numeric_limits<double>::infinity() : ratio;
}

}  // namespace quarrel::bench::reference
