// The values of a step: two arenas of float32 rows.
#pragma once

#include <cstddef>
#include <memory>

#include "metal/context.h"
#include "metal/elastic_buffer.h"
#include "program/device.h"
#include "program/memory_planner.h"

namespace quarrel::metal {

class Activations {
 public:
  Activations(const Program& program, const MemoryPlan& plan, const StepLimits& limits,
              const Context& context, const std::shared_ptr<MemoryLedger>& ledger);
  // Bytes that the constructor charges.
  static std::size_t planned_bytes(const MemoryPlan& plan, const StepLimits& limits);

  // Room for the logits of this many rows: they are large, and few are wanted when generating.
  void require_selected(std::size_t n_rows);
  void shrink() { selected_.shrink(); }

  // Rows [first, first + n) of a value.
  BufferRange rows(ValueId id, std::size_t first, std::size_t n) const;
  // The first row of a value, as the host sees it.
  const float* data(ValueId id) const;

 private:
  const Program& program_;
  MemoryPlan plan_;
  std::size_t max_tokens_;
  std::size_t n_selected_ = 0;  // capacity in this step
  SharedBuffer tokens_;
  ElasticBuffer selected_;
};

}  // namespace quarrel::metal
