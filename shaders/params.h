// Argument structs and indices of every kernel: included by the shaders and by the host.
#pragma once

#ifdef __METAL_VERSION__
typedef uint quarrel_uint;
#else
#include <cstdint>
typedef std::uint32_t quarrel_uint;
#endif

// Buffer indices of embedding_<type>.
enum EmbeddingBuffer : int {
  kEmbeddingTable = 0,   // [vocab_size, n] in the file's format
  kEmbeddingTokens = 1,  // [n_tokens] int
  kEmbeddingOut = 2,     // [n_tokens, n] float
  kEmbeddingParams = 3,
};

enum EmbeddingShape : int { kEmbeddingElements = 16 };  // of a row, per thread

// out = scale * table[token]
struct EmbeddingParams {
  quarrel_uint n;  // a multiple of kEmbeddingElements
  float scale;
};
static_assert(sizeof(EmbeddingParams) == 8, "EmbeddingParams: host and shader disagree");

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

// Buffer indices of add_rms_norm.
enum AddRmsNormBuffer : int {
  kAddRmsNormX = 0,
  kAddRmsNormY = 1,
  kAddRmsNormWeight = 2,
  kAddRmsNormSum = 3,  // may be x or y
  kAddRmsNormOut = 4,
  kAddRmsNormParams = 5,
};

// sum = x + scale * y, out = rms_norm(sum)
struct AddRmsNormParams {
  quarrel_uint n;  // elements of a row, a multiple of 4
  float eps;
  float scale;
};
static_assert(sizeof(AddRmsNormParams) == 12, "AddRmsNormParams: host and shader disagree");

// Buffer indices of rope.
enum RopeBuffer : int {
  kRopeX = 0,       // [n_tokens, n_heads * head_dim] float
  kRopeAngles = 1,  // [n_tokens, 2, n_rotated / 2] float: cosines, then sines
  kRopeOut = 2,     // like x; may be x
  kRopeParams = 3,
};

// Function constants of rope.
enum RopeConstant : int { kConstantRopeInterleaved = 0 };  // bool

struct RopeParams {
  quarrel_uint n_heads;
  quarrel_uint head_dim;   // even
  quarrel_uint n_rotated;  // of every head, even
};
static_assert(sizeof(RopeParams) == 12, "RopeParams: host and shader disagree");

// Buffer indices of the elementwise kernels; those with one input have no y.
enum ElementwiseBuffer : int {
  kElementwiseX = 0,
  kElementwiseY = 1,
  kElementwiseOut = 2,  // may be an input
  kElementwiseParams = 3,
};

struct ElementwiseParams {
  quarrel_uint n;
  float factor;  // what it means: see the kernel
};
static_assert(sizeof(ElementwiseParams) == 8, "ElementwiseParams: host and shader disagree");

// Buffer indices of select_rows.
enum SelectRowsBuffer : int {
  kSelectRowsX = 0,     // [n_tokens, n] float
  kSelectRowsRows = 1,  // [n_selected] int
  kSelectRowsOut = 2,   // [n_selected, n] float
  kSelectRowsParams = 3,
};

struct SelectRowsParams {
  quarrel_uint n;  // a multiple of 4
};
static_assert(sizeof(SelectRowsParams) == 4, "SelectRowsParams: host and shader disagree");

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

// Buffer indices of argmax.
enum ArgmaxBuffer : int {
  kArgmaxLogits = 0,  // [n_rows, n_cols] float
  kArgmaxIds = 1,     // [n_rows] uint
  kArgmaxParams = 2,
};

// Buffer indices of top_k_chunks and top_k_merge.
enum TopKBuffer : int {
  kTopKLogits = 0,      // [n_rows, n_cols] float; top_k_chunks alone
  kTopKCandidates = 1,  // [n_rows, top_k_chunk_count(n_cols), k] ulong
  kTopKIds = 2,         // [n_rows, k] uint; top_k_merge alone
  kTopKValues = 3,      // [n_rows, k] float; top_k_merge alone
  kTopKParams = 4,
};

// argmax leaves k unused.
struct SamplingParams {
  quarrel_uint n_cols;
  quarrel_uint k;  // at most kTopKMax and n_cols
};
static_assert(sizeof(SamplingParams) == 8, "SamplingParams: host and shader disagree");

enum SamplingShape : int {
  kSamplingThreads = 256,  // of every threadgroup
  kTopKChunk = 2048,       // logits that a threadgroup sorts
  kTopKMax = 1024,
};

inline constexpr quarrel_uint top_k_chunk_count(quarrel_uint n_cols) {
  return (n_cols + kTopKChunk - 1) / kTopKChunk;
}
