// The activations of gated feed-forward layers, of floats and of vectors.
#pragma once
#include <metal_stdlib>
using namespace metal;

// x * sigmoid(x) (Elfwing, Uchibe and Doya, "Sigmoid-weighted linear units", 2017)
template <typename T>
inline T silu(T x) {
  return x / (1.0f + precise::exp(-x));
}

// With the tanh approximation (Hendrycks and Gimpel, "Gaussian Error Linear Units", 2016).
template <typename T>
inline T gelu(T x) {
  const T inner = 0.7978845608f * (x + 0.044715f * x * x * x);
  return 0.5f * x * (1.0f + precise::tanh(inner));
}
