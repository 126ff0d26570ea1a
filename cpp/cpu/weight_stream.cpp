#include "cpu/weight_stream.h"

#include <algorithm>
#include <variant>

#include "cpu/packing/packed_format.h"

namespace quarrel::cpu {
namespace {

// Memory's latency times its bandwidth and a good margin; less than a core's second-level cache.
constexpr std::size_t kAheadBytes = 12288;

}  // namespace

WeightStream::WeightStream(const Schedule& schedule, const PackedWeights& weights,
                           std::size_t n_threads)
    : stages_(schedule.stages.size()), n_threads_(n_threads) {
  std::vector<std::size_t> linear;
  for (std::size_t s = 0; s < stages_.size(); ++s) {
    if (schedule.stages[s].kind != StageKind::Linear) continue;
    linear.push_back(s);
    for (const std::size_t op : schedule.stages[s].ops) {
      const WeightId id = std::get<LinearOp>(schedule.program->ops[op].kind).weight;
      const Weight& weight = schedule.program->weight(id);
      stages_[s].matrices.push_back({weights.tiles(id), packed_tiles(weight.n_rows),
                                     packed_tile_bytes(weight.dtype, weight.n_cols)});
      stages_[s].n_tiles += stages_[s].matrices.back().n_tiles;
    }
  }
  for (std::size_t i = 0; i < linear.size(); ++i)
    stages_[linear[i]].next = linear[(i + 1) % linear.size()];
}

WeightStream::Place WeightStream::find(const LinearStage& stage, std::size_t tile) {
  const Matrix* matrix = stage.matrices.data();
  for (; tile >= matrix->n_tiles; ++matrix) tile -= matrix->n_tiles;
  return {*matrix, tile};
}

const std::byte* WeightStream::address(const LinearStage& stage, std::size_t tile) {
  const Place place = find(stage, tile);
  return place.matrix.tiles + place.tile * place.matrix.tile_bytes;
}

const std::byte* WeightStream::ahead(std::size_t stage, std::size_t tile) const {
  const LinearStage& now = stages_[stage];
  const std::size_t tile_bytes = find(now, tile).matrix.tile_bytes;
  const std::size_t wanted = tile + (kAheadBytes + tile_bytes - 1) / tile_bytes;
  // The thread whose part this is: ThreadPool gives thread t the items from n t / n_threads on.
  const std::size_t thread = ((tile + 1) * n_threads_ + now.n_tiles - 1) / now.n_tiles - 1;
  const std::size_t end = now.n_tiles * (thread + 1) / n_threads_;
  if (wanted < end) return address(now, wanted);
  const LinearStage& next = stages_[now.next];
  const std::size_t continued = next.n_tiles * thread / n_threads_ + (wanted - end);
  return address(next, std::min(continued, next.n_tiles - 1));
}

}  // namespace quarrel::cpu
