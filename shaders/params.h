// Argument structs and indices of every kernel: included by the shaders and by the host.
#pragma once

#ifdef __METAL_VERSION__
typedef uint quarrel_uint;
#else
#include <cstdint>
typedef std::uint32_t quarrel_uint;
#endif

// Buffer indices of rms_norm.
enum RmsNormBuffer : int {
  kRmsNormX = 0,
  kRmsNormWeight = 1,
  kRmsNormOut = 2,
  kRmsNormParams = 3,
};

// Every row of n elements becomes x / sqrt(mean(x^2) + eps) * weight.
struct RmsNormParams {
  quarrel_uint n;  // elements of a row, a multiple of 4
  float eps;
};
static_assert(sizeof(RmsNormParams) == 8, "RmsNormParams: host and shader disagree");

// Buffer indices of add.
enum AddBuffer : int {
  kAddX = 0,
  kAddY = 1,
  kAddOut = 2,
  kAddParams = 3,
};

// out = x + scale * y over n elements.
struct AddParams {
  quarrel_uint n;
  float scale;
};
static_assert(sizeof(AddParams) == 8, "AddParams: host and shader disagree");
