#import "metal/step_arrays.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <numeric>
#include <set>
#include <variant>

namespace quarrel::metal {
namespace {

constexpr std::size_t kAlignment = 256;  // of a buffer's offset, on every GPU
constexpr std::size_t kSmallestBlockSize = 16;

// Never empty: a dispatch cannot bind nothing.
std::size_t padded(std::size_t n_bytes) { return (n_bytes / kAlignment + 1) * kAlignment; }

std::size_t ints(std::size_t n) { return padded(n * sizeof(std::int32_t)); }

std::size_t angle_bytes(const RopeTable& rope, std::size_t n_tokens) {
  return rope.inverse_frequencies.size() * 2 * n_tokens * sizeof(float);
}

std::size_t item_bytes(std::size_t n_items) { return padded(n_items * sizeof(AttentionItem)); }

std::set<std::size_t> item_sizes(const Program& program) {
  std::set<std::size_t> sizes;
  for (const Op& op : program.ops)
    if (const auto* attention = std::get_if<AttentionOp>(&op.kind))
      sizes.insert(prefill_item_tokens(
          split_heads(attention->n_heads, program.kv_layers[attention->layer].n_kv_heads)));
  return sizes;
}

// What a step of this shape needs.
std::size_t bytes_of(const Program& program, const StepShape& shape) {
  std::size_t n = 2 * ints(shape.n_tokens) + ints(shape.n_selected) +
                  ints(std::max(shape.n_tokens, shape.n_selected));
  for (const std::size_t max_blocks : shape.max_blocks)
    n += ints(shape.n_tokens) + ints(shape.n_seqs * max_blocks);
  for (const RopeTable& rope : program.ropes) n += padded(angle_bytes(rope, shape.n_tokens));
  n += item_bytes(shape.n_seqs);
  for (const std::size_t size : item_sizes(program))
    n += item_bytes(shape.n_tokens / size + shape.n_seqs);
  return n;
}

}  // namespace

HeadSplit split_heads(std::size_t n_heads, std::size_t n_kv_heads) {
  const std::size_t ratio = n_heads / n_kv_heads;
  const std::size_t least = (ratio + kAttentionMaxGroup - 1) / kAttentionMaxGroup;
  const std::size_t group = (ratio + least - 1) / least;
  return {group, (ratio + group - 1) / group};
}

std::size_t prefill_item_tokens(const HeadSplit& split) { return kPrefillRows / split.group; }

StepArrays::StepArrays(const Program& program, const StepLimits& limits, const Context& context,
                       const std::shared_ptr<MemoryLedger>& ledger)
    : groups(program.groups.size()),
      ropes(program.ropes.size()),
      program_(program),
      memory_(context, ledger, planned_bytes(program, limits)) {
  for (const std::size_t size : item_sizes(program)) prefill_items[size] = {};
}

std::size_t StepArrays::planned_bytes(const Program& program, const StepLimits& limits) {
  const std::size_t n_seqs = std::min(limits.max_selected_rows, limits.max_tokens);
  const std::size_t blocks = limits.max_context_tokens / kSmallestBlockSize + 1;
  const std::vector<std::size_t> max_blocks(program.groups.size(), blocks);
  return bytes_of(program, {limits.max_tokens, n_seqs, n_seqs, max_blocks});
}

void StepArrays::begin(const StepShape& shape) {
  memory_.require(bytes_of(program_, shape));
  next_ = assembled_ = 0;
}

std::span<std::int32_t> StepArrays::take(std::size_t n) {
  const BufferRange range = reserve(n * sizeof(std::int32_t));
  assembled_ = next_;
  return {reinterpret_cast<std::int32_t*>(host(range)), n};
}

BufferRange StepArrays::reserve(std::size_t n_bytes) {
  const BufferRange range = memory_.get().range(next_, n_bytes);
  next_ += padded(n_bytes);
  return range;
}

bool StepArrays::is_here(std::span<const std::int32_t> values) const {
  const auto* at = reinterpret_cast<const std::byte*>(values.data());
  const std::byte* begin = memory_.get().data();
  return std::less_equal<>()(begin, at) && std::less<>()(at, begin + memory_.get().size());
}

BufferRange StepArrays::copy(std::span<const std::int32_t> values) {
  const BufferRange range = reserve(values.size_bytes());
  if (!values.empty()) std::memcpy(host(range), values.data(), values.size_bytes());
  return range;
}

BufferRange StepArrays::place(std::span<const std::int32_t> values) {
  if (!is_here(values)) return copy(values);
  const auto* at = reinterpret_cast<const std::byte*>(values.data());
  return memory_.get().range(static_cast<std::size_t>(at - memory_.get().data()),
                             values.size_bytes());
}

// Angles grow with the position, so they are computed in double, as on the CPU.
BufferRange StepArrays::put_angles(const RopeTable& rope,
                                   std::span<const std::int32_t> step_positions) {
  const BufferRange range = reserve(angle_bytes(rope, step_positions.size()));
  auto* cosines = reinterpret_cast<float*>(host(range));
  const std::size_t n = rope.inverse_frequencies.size();
  for (const std::int32_t position : step_positions) {
    for (std::size_t k = 0; k < n; ++k) {
      const double angle = static_cast<double>(position) * rope.inverse_frequencies[k];
      cosines[k] = static_cast<float>(std::cos(angle));
      cosines[n + k] = static_cast<float>(std::sin(angle));
    }
    cosines += 2 * n;
  }
  return range;
}

BufferRange StepArrays::put_row_numbers(std::size_t n) {
  const BufferRange range = reserve(n * sizeof(std::uint32_t));
  auto* first = reinterpret_cast<std::uint32_t*>(host(range));
  std::iota(first, first + n, 0u);
  return range;
}

StepArrays::Items StepArrays::put_items(const StepInputs& in, std::size_t first_sequence,
                                        std::size_t end_sequence, std::size_t max_tokens) {
  std::size_t n = 0;
  auto* items = reinterpret_cast<AttentionItem*>(memory_.get().data() + next_);
  for (std::size_t s = first_sequence; s < end_sequence; ++s) {
    const auto end = static_cast<std::size_t>(in.query_start_loc[s + 1]);
    for (auto row = static_cast<std::size_t>(in.query_start_loc[s]); row < end; row += max_tokens)
      items[n++] = {static_cast<quarrel_uint>(row),
                    static_cast<quarrel_uint>(std::min(max_tokens, end - row)),
                    static_cast<quarrel_uint>(s), 0};
  }
  return {reserve(n * sizeof(AttentionItem)), n};
}

void StepArrays::write(const StepInputs& in) {
  if (is_here(in.positions)) {
    next_ = assembled_;
  } else {
    std::vector<std::size_t> max_blocks;
    for (const GroupInputs& group : in.groups) max_blocks.push_back(group.max_blocks);
    begin({in.n_tokens(), in.n_seqs(), in.selected_rows.size(), max_blocks});
  }
  token_ids = copy(in.token_ids);
  positions = place(in.positions);
  selected_rows = copy(in.selected_rows);
  row_numbers = put_row_numbers(std::max(in.n_tokens(), in.selected_rows.size()));
  for (std::size_t g = 0; g < groups.size(); ++g)
    groups[g] = {place(in.groups[g].slot_mapping), place(in.groups[g].block_tables)};
  for (std::size_t r = 0; r < ropes.size(); ++r)
    ropes[r] = put_angles(program_.ropes[r], in.positions);
  decode_items = put_items(in, 0, in.n_decodes, 1);
  for (auto& [size, items] : prefill_items) items = put_items(in, in.n_decodes, in.n_seqs(), size);
}

}  // namespace quarrel::metal
