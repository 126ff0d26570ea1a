#include "program/step_runner.h"

#include <utility>

namespace quarrel {

StepRunner::StepRunner(std::shared_ptr<Executable> executable, std::shared_ptr<KVStorage> storage,
                       std::shared_ptr<KVCache> cache, std::size_t vocab_size)
    : executable_(std::move(executable)),
      storage_(std::move(storage)),
      cache_(std::move(cache)),
      vocab_size_(vocab_size),
      assembler_(vocab_size) {}

std::span<const float> StepRunner::run(const StepRequest& request) {
  for (const BlockCopy& copy : cache_->take_copies())
    storage_->copy_block(copy.group, copy.from, copy.to);
  return executable_->run(assembler_.assemble(request, *cache_), *storage_);
}

}  // namespace quarrel
