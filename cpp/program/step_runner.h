// Runs steps: cache bookkeeping and device memory meet here.
#pragma once

#include <memory>
#include <span>
#include <vector>

#include "cache/kv_cache.h"
#include "program/device.h"
#include "program/step_assembler.h"

namespace quarrel {

class StepRunner {
 public:
  // masks: one per layer group, in place of what the cache keeps, which they must lie within; so a
  // cache that keeps everything computes what one with a window does. Empty: the cache's own.
  StepRunner(std::shared_ptr<Executable> executable, std::shared_ptr<KVStorage> storage,
             std::shared_ptr<KVCache> cache, std::size_t vocab_size,
             std::vector<GroupSpec> masks = {});

  // Logits [n_selected, vocab_size], valid until the next run. Does not commit: the caller does
  // once the step has succeeded.
  std::span<const float> run(const StepRequest& request);

  // Of the last run, where the request asked for some and the device has looked.
  BestTokens best_tokens() const { return executable_->best_tokens(); }

  std::size_t vocab_size() const { return vocab_size_; }

 private:
  std::shared_ptr<Executable> executable_;
  std::shared_ptr<KVStorage> storage_;
  std::shared_ptr<KVCache> cache_;
  std::size_t vocab_size_;
  StepAssembler assembler_;
};

}  // namespace quarrel
