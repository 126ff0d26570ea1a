// Argument structs and indices of every kernel: included by the shaders and by the host.
#pragma once

#ifdef __METAL_VERSION__
typedef uint quarrel_uint;
#else
#include <cstdint>
typedef std::uint32_t quarrel_uint;
#endif

// Buffer indices of embedding_<type>, <type> as in the file ("Q4_K").
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

// Function constants of kv_write and of attention (uint each): what a pipeline is specialised for.
enum AttentionConstant : int {
  kConstantHeadDim = 0,    // a multiple of 8, at most 256
  kConstantBlockSize = 1,  // tokens, a multiple of 8
  kConstantKType = 2,      // a KVType
  kConstantVType = 3,
  kConstantGroup = 4,      // query heads that share a KV head and a threadgroup, 1 to 8
  kConstantPartition = 5,  // decode: tokens per threadgroup, a multiple of kConstantRound
  kConstantRound = 6,      // decode: tokens between two rescalings, a multiple of 32
};

// Buffer indices of kv_write.
enum KVWriteBuffer : int {
  kKVWriteK = 0,      // [n_tokens, n_kv_heads * head_dim] float
  kKVWriteV = 1,      // the same
  kKVWriteSlots = 2,  // [n_tokens] int
  kKVWriteKCache = 3,
  kKVWriteVCache = 4,
  kKVWriteParams = 5,
};

struct KVWriteParams {
  quarrel_uint n_kv_heads;
};
static_assert(sizeof(KVWriteParams) == 4, "KVWriteParams: host and shader disagree");

// Buffer indices of attention_decode.
enum AttentionDecodeBuffer : int {
  kDecodeQ = 0,       // [n_tokens, n_heads * head_dim] float
  kDecodeKCache = 1,  // this layer's K, as kv_layout.h says
  kDecodeVCache = 2,
  kDecodeBlockTables = 3,  // [n_seqs, max_blocks] int
  kDecodePositions = 4,    // [n_tokens] int
  kDecodeItems = 5,        // [n_items] AttentionItem: a token each
  kDecodeOut = 6,          // [n_tokens, n_heads * head_dim] float
  kDecodePartials = 7,     // [n_items, n_heads, max_slots, head_dim] float
  kDecodePartialSums = 8,  // [n_items, n_heads, max_slots] float2: largest score, sum of weights
  kDecodeParams = 9,
};

// Buffer indices of attention_decode_reduce.
enum AttentionReduceBuffer : int {
  kReducePartials = 0,
  kReducePartialSums = 1,
  kReducePositions = 2,
  kReduceItems = 3,
  kReduceOut = 4,
  kReduceParams = 5,
};

// Buffer indices of attention_prefill.
enum AttentionPrefillBuffer : int {
  kPrefillQ = 0,
  kPrefillKCache = 1,
  kPrefillVCache = 2,
  kPrefillBlockTables = 3,
  kPrefillPositions = 4,
  kPrefillItems = 5,  // [n_items] AttentionItem
  kPrefillOut = 6,
  kPrefillParams = 7,
};

// Consecutive tokens of one sequence: one for attention_decode, and at most
// kPrefillRows / kConstantGroup for attention_prefill.
struct AttentionItem {
  quarrel_uint first_token;  // row of q, positions and out
  quarrel_uint n_tokens;
  quarrel_uint sequence;  // row of the block tables
  quarrel_uint reserved;
};
static_assert(sizeof(AttentionItem) == 16, "AttentionItem: host and shader disagree");

// A query at position p sees positions j <= p where window is 0, p - j < window or j < sinks.
struct AttentionParams {
  quarrel_uint n_heads;
  quarrel_uint n_kv_heads;
  quarrel_uint max_blocks;  // columns of the block tables
  quarrel_uint max_slots;   // decode: most partitions that a token of this step reads
  quarrel_uint window;
  quarrel_uint sinks;
  float scale;
  float softcap;  // c > 0: a score s becomes c * tanh(s / c)
};
static_assert(sizeof(AttentionParams) == 32, "AttentionParams: host and shader disagree");

enum AttentionShape : int {
  kAttentionMaxGroup = 8,
  kAttentionThreads = 128,  // of every threadgroup of the attention kernels and of kv_write
  kAttentionSimdgroups = 4,
  kPrefillRows = 32,      // (token, query head) pairs of a threadgroup
  kAttentionRound = 512,  // attention_partition() is a multiple of it
};

// The first position that a query at `position` sees apart from the sinks.
inline constexpr quarrel_uint attention_begin(quarrel_uint position, quarrel_uint window) {
  return window != 0 && position >= window ? position + 1 - window : 0;
}

// How many partitions hold nothing but sinks for a query at `position`.
inline constexpr quarrel_uint attention_sink_slots(quarrel_uint position, quarrel_uint window,
                                                   quarrel_uint sinks, quarrel_uint partition) {
  return (sinks + partition - 1) / partition < attention_begin(position, window) / partition
             ? (sinks + partition - 1) / partition
             : attention_begin(position, window) / partition;
}

// How many partitions a query at `position` reads: those of the sinks, then those of its window.
inline constexpr quarrel_uint attention_slots(quarrel_uint position, quarrel_uint window,
                                              quarrel_uint sinks, quarrel_uint partition) {
  return attention_sink_slots(position, window, sinks, partition) + position / partition + 1 -
         attention_begin(position, window) / partition;
}

// Bytes of attention_decode's threadgroup memory (argument 0). First scores of a round, four heads
// to a float4; later sums of every simdgroup: of two heads, or of eight rows of 32 elements.
inline constexpr quarrel_uint attention_score_bytes(quarrel_uint head_dim, quarrel_uint group,
                                                    quarrel_uint round) {
  quarrel_uint n = kAttentionSimdgroups * 8 * 32 * 4;
  n = kAttentionSimdgroups * 2 * head_dim * 4 > n ? kAttentionSimdgroups * 2 * head_dim * 4 : n;
  const quarrel_uint scores = (group + 3) / 4 * round * 16;
  return scores > n ? scores : n;
}
// Then, where K has scales, queries as matrices of half: of four heads twice, or of eight.
inline constexpr quarrel_uint attention_query_bytes(quarrel_uint head_dim, quarrel_uint group) {
  return (head_dim + 31) / 32 * 512 * (group > 4 ? 2 : 1);
}
// Then, where K or V has scales, the blocks of a partition: of eight tokens at least, and two.
inline constexpr quarrel_uint attention_decode_memory(quarrel_uint head_dim, quarrel_uint group,
                                                      quarrel_uint partition, quarrel_uint round,
                                                      bool k_has_scales, bool v_has_scales) {
  return attention_score_bytes(head_dim, group, round) +
         (k_has_scales ? attention_query_bytes(head_dim, group) : 0) +
         (k_has_scales || v_has_scales ? (partition / 8 + 5) / 4 * 16 : 0);
}

// Keys of a tile of attention_prefill, whose matrices have elements of `element_bytes`.
inline constexpr quarrel_uint attention_prefill_keys(quarrel_uint head_dim,
                                                     quarrel_uint element_bytes) {
  return head_dim * element_bytes > 256 ? 16 : 32;
}

// Bytes between parts of its threadgroup memory that are touched at the same time, so that they lie
// in other banks; the largest tiles leave no room for gaps.
inline constexpr quarrel_uint attention_prefill_gap(quarrel_uint head_dim,
                                                    quarrel_uint element_bytes) {
  return head_dim * element_bytes > 512 ? 0 : 16;
}

// Bytes of attention_prefill's threadgroup memory: a tile of keys and one of values, with gaps.
inline constexpr quarrel_uint attention_prefill_memory(quarrel_uint head_dim,
                                                       quarrel_uint element_bytes) {
  return 2 * attention_prefill_keys(head_dim, element_bytes) * head_dim * element_bytes +
         (4 + 2 * (head_dim / 8)) * attention_prefill_gap(head_dim, element_bytes);
}

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
  kLinearTokensPerPass = 18,  // uint, linear_decode and linear_gated: 1 to kLinearMaxTokensPerPass
  kLinearActivation = 19,     // uint, linear_gated alone: a GatedActivation
};

enum GatedActivation : int { kActivationSilu = 0, kActivationGelu = 1 };

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

// Buffer indices of linear_gated; rows as LinearBuffer says.
enum GatedBuffer : int {
  kGatedX = 0,
  kGatedGate = 1,
  kGatedUp = 2,
  kGatedOut = 3,
  kGatedTokens = 4,
  kGatedParams = 5,  // LinearParams; residual_scale is not used
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
  kLinearMaxTokensPerPass = 4,
  kLinearPrefillRows = 64,  // rows of W and tokens of a linear_prefill threadgroup
  kLinearPrefillTokens = 32,
  kLinearPrefillDepth = 32,  // columns of W and of x in its threadgroup memory at a time
};

// Bytes of linear_prefill's threadgroup memory: rows of W and tokens, each with a gap of eight
// floats behind it, so that the eight rows of a matrix lie in different banks.
inline constexpr quarrel_uint linear_prefill_memory() {
  return (kLinearPrefillRows + kLinearPrefillTokens) * (kLinearPrefillDepth + 8) * 4;
}

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
