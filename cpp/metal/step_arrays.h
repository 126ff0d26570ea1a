// The arrays of a step in memory that the GPU reads: block tables, slots and positions are
// assembled here by the host.
#pragma once

#include <cstddef>
#include <map>
#include <memory>
#include <span>
#include <vector>

#include "metal/context.h"
#include "metal/elastic_buffer.h"
#include "program/device.h"
#include "shaders/params.h"

namespace quarrel::metal {

class StepArrays final : public StepMemory {
 public:
  StepArrays(const Program& program, const StepLimits& limits, const Context& context,
             const std::shared_ptr<MemoryLedger>& ledger);
  // Bytes that the constructor charges.
  static std::size_t planned_bytes(const Program& program, const StepLimits& limits);

  void begin(const StepShape& shape) override;
  std::span<std::int32_t> take(std::size_t n) override;

  // Adds what a step needs beside the arrays that were assembled here: token ids, rotary
  // embeddings' angles, the work of attention cut into items. Arrays that lie elsewhere are copied.
  // Throws OutOfMemoryError.
  void write(const StepInputs& inputs);
  void shrink() { memory_.shrink(); }

  BufferRange token_ids;      // [n_tokens] int32
  BufferRange positions;      // [n_tokens] int32
  BufferRange selected_rows;  // [n_selected] int32
  BufferRange row_numbers;    // [max(n_tokens, n_selected)] uint32: 0, 1, 2, …
  struct Group {
    BufferRange slot_mapping;  // [n_tokens] int32
    BufferRange block_tables;  // [n_seqs, max_blocks] int32
  };
  std::vector<Group> groups;
  std::vector<BufferRange> ropes;  // [n_tokens, 2, n_rotated / 2] f32: cosines, then sines

  // Work items of attention (AttentionItem), of sequences that decode and of those that do not.
  struct Items {
    BufferRange range;
    std::size_t n;
  };
  Items decode_items;
  // By the number of tokens that an item may have.
  std::map<std::size_t, Items> prefill_items;

 private:
  bool is_here(std::span<const std::int32_t> values) const;
  BufferRange reserve(std::size_t n_bytes);
  std::byte* host(const BufferRange& range) const { return memory_.get().data() + range.offset; }
  BufferRange copy(std::span<const std::int32_t> values);
  // Where the GPU finds an array: in its place or copied.
  BufferRange place(std::span<const std::int32_t> values);
  BufferRange put_angles(const RopeTable& rope, std::span<const std::int32_t> positions);
  BufferRange put_row_numbers(std::size_t n);
  Items put_items(const StepInputs& inputs, std::size_t first_sequence, std::size_t end_sequence,
                  std::size_t max_tokens);

  const Program& program_;
  ElasticBuffer memory_;
  std::size_t next_ = 0;
  std::size_t assembled_ = 0;  // where the arrays end that the host has assembled
};

// How attention_decode and attention_prefill share the query heads of a KV head: a threadgroup has
// `group` of them, `n_splits` threadgroups have all.
struct HeadSplit {
  std::size_t group;
  std::size_t n_splits;
};
HeadSplit split_heads(std::size_t n_heads, std::size_t n_kv_heads);
// Tokens of an attention_prefill item.
std::size_t prefill_item_tokens(const HeadSplit& split);

}  // namespace quarrel::metal
