// The CPU kernels: one table of functions per instruction set, chosen at run time.
//
// A kernel computes one work item (some rows or columns of an output) from start to end, so which
// thread runs it never changes a result. Pointers are to float32 unless they say otherwise.
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/dtype.h"
#include "cpu/kv_format.h"

namespace quarrel::cpu {

// y[n_tokens, n_out] = x[n_tokens, n_in] W^T + bias, W in tiles of 16 outputs (packed_format.h).
// Quantised weights read x_quantized, the others x.
struct LinearArgs {
  const float* x;
  const std::byte* x_quantized;  // [n_tokens] rows of quantized_row_bytes(n_in)
  float* y;
  const float* bias;  // [n_out] or null
  std::size_t n_in;
  std::size_t n_out;
  const std::byte* packed;
  DType dtype;
};
struct LinearItem {
  std::size_t tile;
  std::size_t first_token;
  std::size_t n_tokens;
};

// Bytes of scratch that a linear work item needs: room for an expanded tile.
constexpr std::size_t linear_scratch_bytes(std::size_t n_in) { return n_in / 32 * (512 + 256); }

struct RmsNormArgs {
  const float* x;
  float* y;
  const float* weight;   // [width]
  std::size_t width;     // elements normalised together
  std::size_t n_groups;  // of them per row
  float eps;
};

struct RopeArgs {
  const float* x;
  float* y;              // may be x
  const float* cos_sin;  // [n_tokens, 2, n_rotated / 2]: cosines, then sines
  std::size_t n_heads;
  std::size_t head_dim;
  std::size_t n_rotated;
  bool interleaved;
};

// K and V of one layer; see kv_format.h.
struct KVView {
  std::byte* k;
  std::byte* v;
  KVElement k_element;
  KVElement v_element;
  std::size_t n_kv_heads;
  std::size_t head_dim;
  std::size_t block_size;
};

struct KVWriteArgs {
  const float* k;  // [n_tokens, n_kv_heads * head_dim]
  const float* v;
  const std::int32_t* slots;  // [n_tokens]
  KVView view;
};

// Queries of one sequence: tokens [first, first + n_tokens) of the step.
struct AttentionArgs {
  const float* q;  // [step tokens, n_heads * head_dim]
  float* y;        // the same shape; not q
  KVView view;
  const std::int32_t* block_table;
  const std::int32_t* positions;  // [step tokens]
  std::size_t n_heads;
  std::size_t window;  // 0: none; else a query at q sees p <= q with q - p < window or p < sinks
  std::size_t sinks;
  float scale;
  float softcap;  // 0: none
};
inline constexpr std::size_t kAttentionRows = 32;       // (token, head) pairs per work item
inline constexpr std::size_t kAttentionPositions = 64;  // cache positions per softmax step
// Positions summed on their own before they join the rest, from multiples of this on. Partitions
// can be spread over threads; they join in ascending order.
inline constexpr std::size_t kAttentionPartition = 512;

// Floats of a partition's sums for n_rows (token, head) pairs.
constexpr std::size_t attention_partial(std::size_t n_rows, std::size_t head_dim) {
  return n_rows * (head_dim + 2);
}

// Floats of scratch that an attention work item needs.
constexpr std::size_t attention_scratch(std::size_t head_dim) {
  return kAttentionRows * (head_dim + kAttentionPositions) +
         2 * attention_partial(kAttentionRows, head_dim) + 2 * kAttentionPositions * head_dim;
}

// The tokens and the KV head of one work item; n_tokens * (n_heads / n_kv_heads) <= kAttentionRows.
struct AttentionItem {
  std::size_t kv_head;
  std::size_t first_token;
  std::size_t n_tokens;
};

// Positions that some query of a work item sees: [0, sinks_end) and [begin, end).
struct AttentionSpan {
  std::size_t sinks_end;  // at most begin
  std::size_t begin;
  std::size_t end;

  // The span inside [from, to): [from, sinks_end) and [begin, end).
  AttentionSpan clipped(std::size_t from, std::size_t to) const {
    const std::size_t sinks = sinks_end < to ? sinks_end : to;
    const std::size_t first = begin > from ? begin : from;
    const std::size_t last = end < to ? end : to;
    return first < last ? AttentionSpan{sinks, first, last} : AttentionSpan{sinks, sinks, sinks};
  }
};

// static, as all that kernels share: each translation unit keeps a copy for its instruction set.
static inline AttentionSpan attention_span(const AttentionArgs& a, const AttentionItem& item) {
  const auto first = static_cast<std::size_t>(a.positions[item.first_token]);
  const auto last = static_cast<std::size_t>(a.positions[item.first_token + item.n_tokens - 1]);
  const std::size_t begin = a.window != 0 && first >= a.window ? first + 1 - a.window : 0;
  return a.sinks < begin ? AttentionSpan{a.sinks, begin, last + 1} : AttentionSpan{0, 0, last + 1};
}

// The partitions that a span touches, in ascending order.
struct AttentionPartitions {
  std::size_t n_sinks;  // of sinks, from 0 on
  std::size_t first;    // of the rest
  std::size_t n;

  explicit AttentionPartitions(const AttentionSpan& span)
      : n_sinks((span.sinks_end + kAttentionPartition - 1) / kAttentionPartition),
        first(span.begin / kAttentionPartition) {
    if (n_sinks > first) n_sinks = first;
    n = n_sinks + (span.end - 1) / kAttentionPartition + 1 - first;
  }
  std::size_t operator[](std::size_t i) const { return i < n_sinks ? i : first + i - n_sinks; }
};

struct KernelTable {
  const char* name;
  void (*quantize_row)(const float* x, std::byte* to, std::size_t n);  // n: a multiple of 32
  void (*linear)(const LinearArgs&, const LinearItem&, std::byte* scratch);
  void (*rms_norm)(const RmsNormArgs&, std::size_t first_row, std::size_t n_rows);
  void (*rope)(const RopeArgs&, std::size_t first_token, std::size_t n_tokens);
  void (*kv_write)(const KVWriteArgs&, std::size_t first_token, std::size_t n_tokens);
  void (*attention)(const AttentionArgs&, const AttentionItem&, float* scratch);
  // The same in two steps: sums of one partition, then outputs from the sums of consecutive ones.
  void (*attention_partition)(const AttentionArgs&, const AttentionItem&, std::size_t partition,
                              float* partial, float* scratch);
  void (*attention_join)(const AttentionArgs&, const AttentionItem&, std::size_t n_partitions,
                         const float* partials, float* scratch);
  void (*silu_mul)(const float* gate, const float* up, float* y, std::size_t n);
  void (*gelu_mul)(const float* gate, const float* up, float* y, std::size_t n);
  void (*add)(const float* a, const float* b, float* y, float scale, std::size_t n);
  void (*scale)(const float* x, float* y, float factor, std::size_t n);
  void (*softcap)(const float* x, float* y, float cap, std::size_t n);
};

}  // namespace quarrel::cpu
