#include "cpu/packing/packed_weights.h"

#include <sys/mman.h>

#include <cstdint>
#include <cstring>
#include <map>
#include <variant>

#include "cpu/packing/pack.h"

namespace quarrel::cpu {
namespace {

constexpr std::size_t kPage = 4096;
constexpr std::size_t kNotPacked = static_cast<std::size_t>(-1);

struct Job {
  const Weight* weight;
  std::size_t offset;
};

// Clean pages of a file can be dropped: a later read brings them back.
void drop_pages(const Weight& weight) {
  if (!weight.file_backed) return;
  const auto begin = reinterpret_cast<std::uintptr_t>(weight.data.data());
  const std::uintptr_t first = (begin + kPage - 1) / kPage * kPage;
  const std::uintptr_t end = (begin + weight.data.size()) / kPage * kPage;
  if (end > first) madvise(reinterpret_cast<void*>(first), end - first, MADV_DONTNEED);
}

struct Layout {
  std::vector<std::size_t> offsets;
  std::vector<Job> matrices;
  std::vector<Job> vectors;
  std::size_t packed_bytes = 0;
  std::size_t other_bytes = 0;
};

// A tensor that the program holds under several ids is packed once. An embedding table that is
// also an output matrix is looked up in the file, whose pages the system may take back: it is
// charged once, as packed.
Layout lay_out(const Program& program) {
  Layout layout;
  layout.offsets.assign(program.weights.size(), kNotPacked);
  std::map<const std::byte*, std::size_t> packed;
  const auto add = [&](WeightId id, std::vector<Job>& jobs, std::size_t n_bytes) {
    const Weight& weight = program.weight(id);
    const auto [found, is_new] = packed.try_emplace(weight.data.data(), layout.packed_bytes);
    layout.offsets[static_cast<std::size_t>(id.index)] = found->second;
    if (!is_new) return;
    jobs.push_back({&weight, found->second});
    layout.packed_bytes += n_bytes;
  };
  const auto add_vector = [&](WeightId id) {
    add(id, layout.vectors, (program.weight(id).data.size() + 63) / 64 * 64);  // tiles stay aligned
  };
  for (const Op& op : program.ops) {
    if (const auto* linear = std::get_if<LinearOp>(&op.kind)) {
      add(linear->weight, layout.matrices, packed_bytes(program.weight(linear->weight)));
      if (linear->bias) add_vector(*linear->bias);
    } else if (const auto* norm = std::get_if<RmsNormOp>(&op.kind)) {
      add_vector(norm->weight);
    }
  }
  for (const Weight& weight : program.weights)
    if (packed.try_emplace(weight.data.data(), kNotPacked).second)
      layout.other_bytes += weight.data.size();
  return layout;
}

}  // namespace

std::size_t packed_weight_bytes(const Program& program) {
  const Layout layout = lay_out(program);
  return layout.packed_bytes + layout.other_bytes;
}

PackedWeights::PackedWeights(const Program& program, ThreadPool& pool,
                             const std::shared_ptr<MemoryLedger>& ledger) {
  Layout layout = lay_out(program);
  others_ = ledger->charge(MemoryKind::Weights, layout.other_bytes);
  memory_ = Buffer(*ledger, MemoryKind::Weights, layout.packed_bytes);
  for (const Job& job : layout.matrices) {
    const std::size_t tile_bytes = packed_tile_bytes(job.weight->dtype, job.weight->n_cols);
    pool.parallel_for(packed_tiles(job.weight->n_rows), [&](std::size_t tile, int) {
      pack_tile(*job.weight, tile, memory_.data() + job.offset + tile * tile_bytes);
    });
    drop_pages(*job.weight);
  }
  for (const Job& job : layout.vectors)
    std::memcpy(memory_.data() + job.offset, job.weight->data.data(), job.weight->data.size());
  offsets_ = std::move(layout.offsets);
}

}  // namespace quarrel::cpu
