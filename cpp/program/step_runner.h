// Runs steps: cache bookkeeping and device memory meet here.
#pragma once

#include <memory>
#include <span>

#include "cache/kv_cache.h"
#include "program/device.h"
#include "program/step_assembler.h"

namespace quarrel {

class StepRunner {
 public:
  StepRunner(std::shared_ptr<Executable> executable, std::shared_ptr<KVStorage> storage,
             std::shared_ptr<KVCache> cache, std::size_t vocab_size);

  // Logits [n_selected, vocab_size], valid until the next run. Does not commit: the caller does
  // once the step has succeeded.
  std::span<const float> run(const StepRequest& request);

  std::size_t vocab_size() const { return vocab_size_; }

 private:
  std::shared_ptr<Executable> executable_;
  std::shared_ptr<KVStorage> storage_;
  std::shared_ptr<KVCache> cache_;
  std::size_t vocab_size_;
  StepAssembler assembler_;
};

}  // namespace quarrel
