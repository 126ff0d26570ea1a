// The matrices of a Program in tiles, one allocation for all.
#pragma once

#include <memory>
#include <vector>

#include "core/buffer.h"
#include "core/thread_pool.h"
#include "program/program.h"

namespace quarrel::cpu {

// What PackedWeights charges to the ledger.
std::size_t packed_weight_bytes(const Program& program);

class PackedWeights {
 public:
  // Packs every matrix that a linear op uses, and copies norms and biases: reading a few of their
  // bytes in the file would keep 64 KB around each resident. Charges the copy and the other weights
  // (an embedding table of its own) to the ledger. The pages of the file that were read only to be
  // copied are given back. Throws OutOfMemoryError.
  PackedWeights(const Program& program, ThreadPool& pool,
                const std::shared_ptr<MemoryLedger>& ledger);

  // The tiles of a linear op's matrix.
  const std::byte* tiles(WeightId id) const {
    return memory_.data() + offsets_[static_cast<std::size_t>(id.index)];
  }
  // A norm's weights or a bias.
  const float* floats(WeightId id) const { return reinterpret_cast<const float*>(tiles(id)); }

 private:
  std::vector<std::size_t> offsets_;  // [n_weights]
  Buffer memory_;
  MemoryLedger::Charge others_;
};

}  // namespace quarrel::cpu
