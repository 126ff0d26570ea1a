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

// Function constants of linear_decode and linear_prefill.
enum LinearConstant : int {
  kLinearHasBias = 16,        // bool
  kLinearHasResidual = 17,    // bool
  kLinearTokensPerPass = 18,  // uint, linear_decode alone: 1 to kLinearMaxTokensPerPass
};

// Buffer indices of linear_decode and linear_prefill. Where a function constant says that the bias
// or the residual is not there, any buffer may stand in its place.
enum LinearBuffer : int {
  kLinearX = 0,         // [.., n_cols] float, rows aligned to 16 bytes for blocks of weights
  kLinearWeight = 1,    // [n_rows] rows of blocks as in the file, aligned to 16 bytes
  kLinearBias = 2,      // [n_rows] float
  kLinearResidual = 3,  // [.., n_rows] float; may be `out` itself
  kLinearOut = 4,       // [.., n_rows] float
  kLinearTokens = 5,    // [n_tokens] uint: the rows of x, residual and out that take part
  kLinearParams = 6,
};

// out = residual + residual_scale * (x W^T + bias); without a residual out = x W^T + bias.
struct LinearParams {
  quarrel_uint n_tokens;
  quarrel_uint n_rows;  // of W
  quarrel_uint n_cols;  // a multiple of the type's block
  float residual_scale;
};
static_assert(sizeof(LinearParams) == 16, "LinearParams: host and shader disagree");

enum LinearShape : int {
  kLinearThreads = 128,  // of every threadgroup
  kLinearSimdgroups = 4,
  kLinearDecodeRows = 16,  // rows of W of a linear_decode threadgroup
  kLinearMaxTokensPerPass = 8,
  kLinearPrefillRows = 64,  // rows of W and tokens of a linear_prefill threadgroup
  kLinearPrefillTokens = 32,
};
