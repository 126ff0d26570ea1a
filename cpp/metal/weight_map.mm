#import "metal/weight_map.h"

#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <map>
#include <span>

namespace quarrel::metal {

// A distinct tensor: a program may hold it under several ids (a tied output matrix).
struct WeightMap::Tensor {
  std::span<const std::byte> data;
  bool file_backed;
  std::vector<std::size_t> ids;
  std::uintptr_t begin() const { return reinterpret_cast<std::uintptr_t>(data.data()); }
  std::uintptr_t end() const { return begin() + data.size(); }
};

namespace {

std::uintptr_t page_bytes() { return static_cast<std::uintptr_t>(sysconf(_SC_PAGESIZE)); }

// Whole pages around some bytes. The first and last page of a file's mapping belong to it entirely.
struct PageRun {
  std::uintptr_t begin;
  std::uintptr_t end;
  std::size_t charged_bytes;  // of tensors
};

PageRun pages_around(std::uintptr_t begin, std::uintptr_t end) {
  const std::uintptr_t page = page_bytes();
  return {begin / page * page, (end + page - 1) / page * page, end - begin};
}

}  // namespace

WeightMap::WeightMap(const Program& program, const Context& context, MemoryLedger& ledger) {
  std::map<const std::byte*, Tensor> distinct;  // sorted by address
  for (std::size_t i = 0; i < program.weights.size(); ++i) {
    const Weight& weight = program.weights[i];
    auto& tensor =
        distinct.try_emplace(weight.data.data(), Tensor{weight.data, weight.file_backed, {}})
            .first->second;
    tensor.ids.push_back(i);
  }
  std::vector<Tensor> mapped;
  std::vector<Tensor> copied;
  for (auto& [address, tensor] : distinct)
    (tensor.file_backed ? mapped : copied).push_back(std::move(tensor));
  ranges_.resize(program.weights.size());
  map_pages(mapped, context, ledger);
  copy(copied, context, ledger);
}

void WeightMap::place(const Tensor& tensor, const BufferRange& range) {
  for (const std::size_t id : tensor.ids) ranges_[id] = range;
}

// Neighbours share a buffer, up to the GPU's limit on the length of one.
void WeightMap::map_pages(const std::vector<Tensor>& tensors, const Context& context,
                          MemoryLedger& ledger) {
  std::size_t first = 0;
  while (first < tensors.size()) {
    PageRun run = pages_around(tensors[first].begin(), tensors[first].end());
    std::size_t last = first + 1;
    for (; last < tensors.size(); ++last) {
      const PageRun next = pages_around(tensors[last].begin(), tensors[last].end());
      if (next.begin > run.end || next.end - run.begin > context.gpu().maxBufferLength) break;
      run.end = next.end;
      run.charged_bytes += tensors[last].data.size();
    }
    const std::span pages(reinterpret_cast<const std::byte*>(run.begin), run.end - run.begin);
    const SharedBuffer& buffer =
        buffers_.emplace_back(context.gpu(), ledger, MemoryKind::Weights, pages, run.charged_bytes);
    for (; first < last; ++first)
      place(tensors[first],
            buffer.range(tensors[first].begin() - run.begin, tensors[first].data.size()));
  }
}

void WeightMap::copy(const std::vector<Tensor>& tensors, const Context& context,
                     MemoryLedger& ledger) {
  for (const Tensor& tensor : tensors) {
    const SharedBuffer& buffer =
        buffers_.emplace_back(context.gpu(), ledger, MemoryKind::Weights, tensor.data.size());
    std::memcpy(buffer.data(), tensor.data.data(), tensor.data.size());
    place(tensor, buffer.range());
  }
}

}  // namespace quarrel::metal
