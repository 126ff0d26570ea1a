#include "cache/eviction.h"

#include <string>
#include <utility>

#include "core/error.h"

namespace quarrel {
namespace {

using Key = std::pair<std::uint64_t, std::uint64_t>;

Key lru_key(const BlockUse& use) { return {use.released_at, 0}; }
Key lfu_key(const BlockUse& use) { return {use.n_uses, use.released_at}; }
Key fifo_key(const BlockUse& use) { return {use.published_at, 0}; }

// A binary heap that knows where each block stands, so that any block can leave. Allocates once.
class KeyedEviction final : public EvictionPolicy {
 public:
  KeyedEviction(std::string_view name, Key (*key)(const BlockUse&), std::size_t n_blocks)
      : name_(name), key_(key), place_(n_blocks, 0) {
    heap_.reserve(n_blocks);
  }

  std::string_view name() const override { return name_; }

  void insert(BlockId block, const BlockUse& use) override {
    heap_.push_back({key_(use), block});
    place_[static_cast<std::size_t>(block)] = heap_.size() - 1;
    rise(heap_.size() - 1);
  }

  void erase(BlockId block) override {
    const std::size_t hole = place_[static_cast<std::size_t>(block)];
    const Entry last = heap_.back();
    heap_.pop_back();
    if (hole == heap_.size()) return;
    put(hole, last);
    rise(hole);
    sink(place_[static_cast<std::size_t>(last.block)]);
  }

  BlockId victim() override { return heap_.front().block; }

  std::size_t n_bytes() const override { return n_bytes(place_.size()); }
  static std::size_t n_bytes(std::size_t n_blocks) {
    return n_blocks * (sizeof(Entry) + sizeof(std::size_t));
  }

 private:
  struct Entry {
    Key key;
    BlockId block;
  };

  void put(std::size_t at, const Entry& entry) {
    heap_[at] = entry;
    place_[static_cast<std::size_t>(entry.block)] = at;
  }

  void rise(std::size_t at) {
    const Entry entry = heap_[at];
    while (at > 0 && entry.key < heap_[(at - 1) / 2].key) {
      put(at, heap_[(at - 1) / 2]);
      at = (at - 1) / 2;
    }
    put(at, entry);
  }

  void sink(std::size_t at) {
    const Entry entry = heap_[at];
    for (;;) {
      std::size_t child = 2 * at + 1;
      if (child >= heap_.size()) break;
      if (child + 1 < heap_.size() && heap_[child + 1].key < heap_[child].key) ++child;
      if (!(heap_[child].key < entry.key)) break;
      put(at, heap_[child]);
      at = child;
    }
    put(at, entry);
  }

  const std::string_view name_;
  Key (*const key_)(const BlockUse&);
  std::vector<Entry> heap_;
  std::vector<std::size_t> place_;  // [n_blocks], meaningful for blocks in the heap
};

}  // namespace

std::size_t eviction_policy_bytes(std::size_t n_blocks) { return KeyedEviction::n_bytes(n_blocks); }

std::shared_ptr<EvictionPolicy> make_eviction_policy(std::string_view name, std::size_t n_blocks) {
  if (name == "lru") return std::make_shared<KeyedEviction>("lru", lru_key, n_blocks);
  if (name == "lfu") return std::make_shared<KeyedEviction>("lfu", lfu_key, n_blocks);
  if (name == "fifo") return std::make_shared<KeyedEviction>("fifo", fifo_key, n_blocks);
  throw InvalidArgument("[eviction] expected lru, lfu, fifo or a registered policy, got " +
                        std::string(name));
}

}  // namespace quarrel
