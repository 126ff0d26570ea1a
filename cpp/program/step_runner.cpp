#include "program/step_runner.h"

#include <string>
#include <utility>

#include "core/error.h"

namespace quarrel {
namespace {

bool is_within(const GroupSpec& mask, const GroupSpec& kept) {
  return kept.window == 0 ||
         (mask.window != 0 && mask.window <= kept.window && mask.sinks <= kept.sinks);
}

std::vector<GroupSpec> checked(std::vector<GroupSpec> masks, const KVCache& cache) {
  if (!masks.empty() && masks.size() != cache.n_groups())
    throw InvalidArgument("[step] expected a mask for each of " + std::to_string(cache.n_groups()) +
                          " layer groups, got " + std::to_string(masks.size()));
  for (std::size_t g = 0; g < masks.size(); ++g)
    if (!is_within(masks[g], cache.group_spec(g)))
      throw InvalidArgument("[step] expected the mask of layer group " + std::to_string(g) +
                            " to lie within what the cache keeps");
  return masks;
}

}  // namespace

StepRunner::StepRunner(std::shared_ptr<Executable> executable, std::shared_ptr<KVStorage> storage,
                       std::shared_ptr<KVCache> cache, std::size_t vocab_size,
                       std::vector<GroupSpec> masks)
    : executable_(std::move(executable)),
      storage_(std::move(storage)),
      cache_(std::move(cache)),
      vocab_size_(vocab_size),
      assembler_(vocab_size, checked(std::move(masks), *cache_)) {}

std::span<const float> StepRunner::run(const StepRequest& request) {
  for (const BlockCopy& copy : cache_->take_copies())
    storage_->copy_block(copy.group, copy.from, copy.to);
  StepMemory* memory = executable_->step_memory();
  return executable_->run(memory != nullptr ? assembler_.assemble(request, *cache_, *memory)
                                            : assembler_.assemble(request, *cache_),
                          *storage_);
}

}  // namespace quarrel
