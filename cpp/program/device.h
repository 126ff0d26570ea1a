// What a compute device offers to the engine. CPU and Metal implement it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "cache/block_store.h"
#include "cache/kv_cache.h"
#include "core/dtype.h"
#include "core/memory_ledger.h"
#include "core/span_log.h"
#include "program/program.h"
#include "program/step_memory.h"
#include "program/step_profile.h"

namespace quarrel {

// The shape of a KV cache's memory. A block holds block_size tokens of all layers of one group.
struct KVLayout {
  std::size_t block_size;             // tokens
  std::vector<std::size_t> n_blocks;  // [n_groups]
  DType k_dtype;
  DType v_dtype;
};

// The memory that blocks stand for; only its device knows how it is laid out.
class KVStorage : public BlockStore {
 public:
  virtual const KVLayout& layout() const = 0;
  virtual std::size_t n_bytes() const = 0;
};

// Block tables and slots of one layer group, for the sequences of a step.
struct GroupInputs {
  std::span<const std::int32_t> slot_mapping;  // [n_tokens], block * block_size + offset
  // [n_seqs, max_blocks]: entry i of a row is the block of positions
  // [i * block_size, (i + 1) * block_size), or -1 where the cache let it go.
  std::span<const std::int32_t> block_tables;
  std::size_t max_blocks;
  // The cache keeps less than the model could see: a query at position q sees p <= q where
  // q - p < window or p < sinks, in place of the layer's own window. window 0: the layer's own.
  std::size_t window = 0;
  std::size_t sinks = 0;
};

// A ragged batch: prefill chunks and decodes in any mix, nothing padded.
struct StepInputs {
  std::span<const std::int32_t> token_ids;        // [n_tokens]
  std::span<const std::int32_t> positions;        // [n_tokens]
  std::span<const std::int32_t> query_start_loc;  // [n_seqs + 1]
  std::span<const std::int32_t> context_lens;     // [n_seqs], after this step
  std::span<const std::int32_t> selected_rows;    // [n_selected]
  std::span<const GroupInputs> groups;            // [n_groups]
  // The first sequences decode: one token each, after the prompt. The others prefill, however short
  // their chunk. A device may use other kernels, with other bits, for one than for the other.
  std::size_t n_decodes = 0;
  // How many of the largest logits of each selected row the caller wants named; 0: none.
  std::size_t n_best = 0;

  std::size_t n_tokens() const { return token_ids.size(); }
  std::size_t n_seqs() const { return context_lens.size(); }
  StepPhase phase() const { return n_tokens() > n_seqs() ? StepPhase::Prefill : StepPhase::Decode; }
};

// How large a step may be. All memory of an Executable follows from it.
struct StepLimits {
  std::size_t max_tokens;                 // n_tokens of a step
  std::size_t max_selected_rows = 16;     // of a generating step
  std::size_t max_context_tokens = 8192;  // of a sequence; speed alone suffers beyond
};

// What compile() charges to the ledger.
struct MemoryNeeds {
  std::size_t weight_bytes;
  std::size_t scratch_bytes;
};

// The tokens with the k largest logits of each selected row, the largest first, among equal ones
// the lowest id; a NaN is larger than all else.
struct BestTokens {
  std::size_t k = 0;
  std::span<const std::uint32_t> ids;  // [n_selected, k]
};

// A Program made ready for one device.
class Executable {
 public:
  virtual ~Executable() = default;
  // Where inputs are best assembled; null: anywhere.
  virtual StepMemory* step_memory() { return nullptr; }
  // Runs one step; the logits, [n_selected, vocab_size] float32, stay valid until the next one.
  // inputs are trusted: whoever assembles a step checks it.
  // A step that selects more rows than StepLimits says takes memory for them from the ledger.
  virtual std::span<const float> run(const StepInputs& inputs, KVStorage& storage) = 0;
  // Of the last run(), as its inputs asked; k is 0 where the device leaves the search to the host.
  virtual BestTokens best_tokens() const { return {}; }
  // Gives that memory back. Logits of the last run are gone.
  virtual void shrink() = 0;
  // Counts from zero when switched on.
  virtual void set_profiling(bool on) = 0;
  // May be called from any thread while a step runs.
  virtual std::vector<StageTime> stage_times() const = 0;
  // While profiling, what runs when on which track goes to this log, nullptr: nowhere. Between two
  // steps.
  virtual void set_trace(std::shared_ptr<SpanLog> log) = 0;
  // What the tracks of such a log are; the first is the thread that calls run().
  virtual std::vector<std::string> track_names() const = 0;
};

class Device {
 public:
  virtual ~Device() = default;
  virtual std::string_view name() const = 0;
  virtual std::unique_ptr<Executable> compile(std::shared_ptr<const Program> program,
                                              const StepLimits& limits,
                                              std::shared_ptr<MemoryLedger> ledger) = 0;
  // Exact, and costs next to nothing: reads no weights.
  virtual MemoryNeeds memory_needs(const Program& program, const StepLimits& limits) const = 0;
  virtual std::unique_ptr<KVStorage> allocate_kv(const Program& program, const KVLayout& layout,
                                                 MemoryLedger& ledger) = 0;
  // Bytes of one block of each layer group, [n_groups].
  virtual std::vector<std::size_t> kv_block_bytes(const Program& program, std::size_t block_size,
                                                  DType k_dtype, DType v_dtype) const = 0;
};

}  // namespace quarrel
