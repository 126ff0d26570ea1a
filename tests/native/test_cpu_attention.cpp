#include <doctest/doctest.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "core/dtype.h"
#include "cpu/isa.h"
#include "cpu/kernels.h"

namespace quarrel::cpu {
namespace {

constexpr std::size_t kHeads = 6;
constexpr std::size_t kKVHeads = 2;

constexpr KVElement kElements[] = {KVElement::F32, KVElement::F16, KVElement::BF16, KVElement::Q8_0,
                                   KVElement::Q4_0};

struct Mask {
  std::size_t window;
  std::size_t sinks;

  bool shows(std::size_t query, std::size_t position) const {
    return position <= query && (window == 0 || query - position < window || position < sinks);
  }
};

// Cache memory for one text of n_tokens, whose blocks lie in any order.
class Cache {
 public:
  Cache(KVElement k, KVElement v, std::size_t head_dim, std::size_t block_size,
        std::size_t n_tokens)
      : block_size_(block_size), table_((n_tokens + block_size - 1) / block_size) {
    const std::size_t n = table_.size() * block_size * kKVHeads;
    k_.assign(n * kv_token_bytes(k, head_dim), std::byte{0xff});  // NaN, wherever it is read
    v_.assign(n * kv_token_bytes(v, head_dim), std::byte{0xff});
    view_ = {k_.data(), v_.data(), k, v, kKVHeads, head_dim, block_size};
    for (std::size_t i = 0; i < table_.size(); ++i) table_[i] = static_cast<std::int32_t>(i);
    std::shuffle(table_.begin(), table_.end(), std::mt19937(1));
  }

  // Stores the positions of k and v, [n_tokens, kKVHeads * head_dim], that are wanted.
  template <class Wanted>
  void write(const KernelTable& kernels, const std::vector<float>& k, const std::vector<float>& v,
             const Wanted& wanted) {
    const std::size_t width = kKVHeads * view_.head_dim;
    for (std::size_t p = 0; p < k.size() / width; ++p) {
      if (!wanted(p)) continue;
      const auto slot = static_cast<std::int32_t>(
          static_cast<std::size_t>(table_[p / block_size_]) * block_size_ + p % block_size_);
      kernels.kv_write({k.data() + p * width, v.data() + p * width, &slot, view_}, 0, 1);
    }
  }
  // Forgets the blocks without a wanted position, as a sliding window does.
  template <class Wanted>
  void let_go(std::size_t n_tokens, const Wanted& wanted) {
    for (std::size_t b = 0; b < table_.size(); ++b) {
      bool keep = false;
      for (std::size_t p = b * block_size_; p < std::min(n_tokens, (b + 1) * block_size_); ++p)
        keep = keep || wanted(p);
      if (!keep) table_[b] = -1;
    }
  }

  const KVView& view() const { return view_; }
  const std::int32_t* table() const { return table_.data(); }
  const std::vector<std::byte>& k() const { return k_; }
  const std::vector<std::byte>& v() const { return v_; }

 private:
  std::size_t block_size_;
  std::vector<std::int32_t> table_;
  std::vector<std::byte> k_;
  std::vector<std::byte> v_;
  KVView view_;
};

std::vector<float> random_floats(std::size_t n, unsigned seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  std::vector<float> x(n);
  for (float& value : x) value = normal(random);
  return x;
}

// A text of n_tokens and queries for its last n_queries positions.
struct Text {
  Text(std::size_t n, std::size_t queries, std::size_t dim)
      : n_tokens(n),
        head_dim(dim),
        k(random_floats(n * kKVHeads * dim, 1)),
        v(random_floats(n * kKVHeads * dim, 2)),
        q(random_floats(queries * kHeads * dim, 3)) {
    for (std::size_t i = 0; i < queries; ++i)
      positions.push_back(static_cast<std::int32_t>(n - queries + i));
  }

  AttentionArgs args(const Cache& cache, Mask mask, std::vector<float>& y) const {
    y.assign(q.size(), 0.0f);
    return {q.data(), y.data(),    cache.view(), cache.table(), positions.data(),
            kHeads,   mask.window, mask.sinks,   0.125f,        0.0f};
  }
  std::vector<float> attend(const KernelTable& kernels, const Cache& cache, Mask mask) const {
    std::vector<float> y;
    std::vector<float> scratch(attention_scratch(head_dim));
    const AttentionArgs a = args(cache, mask, y);
    for (std::size_t head = 0; head < kKVHeads; ++head)
      kernels.attention(a, {head, 0, positions.size()}, scratch.data());
    return y;
  }

  std::size_t n_tokens;
  std::size_t head_dim;
  std::vector<float> k;
  std::vector<float> v;
  std::vector<float> q;
  std::vector<std::int32_t> positions;
};

bool same_bits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

const auto kAll = [](std::size_t) { return true; };

}  // namespace

TEST_CASE("a token takes the bytes of its GGUF type where 32 divides the head size") {
  constexpr DType kTypes[] = {DType::F32, DType::F16, DType::BF16, DType::Q8_0, DType::Q4_0};
  for (std::size_t i = 0; i < std::size(kTypes); ++i)
    for (const std::size_t head_dim : {64u, 96u, 128u, 256u})
      CHECK(kv_token_bytes(kElements[i], head_dim) == row_bytes(kTypes[i], head_dim));
  CHECK(kv_token_bytes(KVElement::Q8_0, 80) == 80 + 3 * 2);
  CHECK(kv_token_bytes(KVElement::Q4_0, 80) == 40 + 3 * 2);
}

TEST_CASE("an item's span holds what its queries see, and its partitions hold the span") {
  std::mt19937 random(7);
  const auto below = [&](std::size_t n) { return random() % n; };
  for (int round = 0; round < 2000; ++round) {
    const std::size_t n_queries = 1 + below(30);
    const std::size_t first = below(3000);
    std::vector<std::int32_t> positions(n_queries);
    for (std::size_t i = 0; i < n_queries; ++i) positions[i] = static_cast<std::int32_t>(first + i);
    const Mask mask{below(3) == 0 ? 0 : 1 + below(2000), below(2) == 0 ? 0 : below(1500)};
    AttentionArgs args{};
    args.positions = positions.data();
    args.window = mask.window;
    args.sinks = mask.window == 0 ? 0 : mask.sinks;
    const AttentionSpan span = attention_span(args, {0, 0, n_queries});
    const AttentionPartitions partitions(span);
    std::vector<bool> touched((first + n_queries) / kAttentionPartition + 1, false);
    std::size_t wrong = 0;
    for (std::size_t p = 0; p < first + n_queries + 10; ++p) {
      bool seen = false;
      for (std::size_t i = 0; i < n_queries; ++i) seen = seen || mask.shows(first + i, p);
      const bool inside = p < span.sinks_end || (p >= span.begin && p < span.end);
      wrong += seen != inside;
      if (seen) touched[p / kAttentionPartition] = true;
    }
    CHECK(wrong == 0);
    std::vector<bool> listed(touched.size(), false);
    for (std::size_t i = 0; i < partitions.n; ++i) {
      CHECK((i == 0 || partitions[i] > partitions[i - 1]));
      listed[partitions[i]] = true;
    }
    CHECK(listed == touched);
  }
}

TEST_CASE("numbers lie where kv_format.h says") {
  const std::vector<float> ones(kKVHeads * 64, 1.0f);  // transformed: 32, then zeros, per group
  const std::int32_t slot = 16 + 5;                    // block 1, token 5
  for (const std::string& isa : available_isas()) {
    CAPTURE(isa);
    const KernelTable& kernels = kernels_for(isa);
    Cache bytes(KVElement::Q8_0, KVElement::Q8_0, 64, 16, 32);
    kernels.kv_write({ones.data(), ones.data(), &slot, bytes.view()}, 0, 1);
    const std::size_t tile = 16 * 68 * kKVHeads;  // the tile of head 0 in block 1
    CHECK(bytes.k()[tile + 5] == std::byte{127});
    CHECK(bytes.k()[tile + 32 * 16 + 5] == std::byte{127});  // dimension 32
    CHECK(bytes.k()[tile + 1 * 16 + 5] == std::byte{0});
    CHECK(bytes.v()[tile + 5 * 64] == std::byte{127});
    CHECK(bytes.v()[tile + 5 * 64 + 1] == std::byte{0});
    CHECK(bytes.k()[tile + 4] == std::byte{0xff});  // the neighbour was not touched

    Cache nibbles(KVElement::Q4_0, KVElement::Q4_0, 64, 8, 32);
    kernels.kv_write({ones.data(), ones.data(), &slot, nibbles.view()}, 0, 1);
    const std::size_t small = 2 * 8 * 36 * kKVHeads;   // slot 21: block 2 of 8 tokens, token 5
    CHECK(nibbles.k()[small + 5] == std::byte{0x80});  // -8 for dimension 0, 0 for dimension 1
    CHECK(nibbles.k()[small + 1 * 8 + 5] == std::byte{0x88});
    CHECK(nibbles.v()[small + 5 * 32] == std::byte{0x80});  // dimensions 0 and 8
    CHECK(nibbles.v()[small + 5 * 32 + 16] == std::byte{0x80});
    std::uint16_t scale;
    std::memcpy(&scale, nibbles.v().data() + small + 8 * 32 + 5 * 2 * sizeof scale, sizeof scale);
    CHECK(scale == 0xc400);  // -4 as float16
  }
}

TEST_CASE("attention reads nothing outside its mask and gives the same bits on every set") {
  const Text text(560, 4, 48);
  const std::size_t first = text.n_tokens - text.positions.size();
  const KernelTable& reference = kernels_for("portable");
  for (const KVElement element : kElements)
    for (const std::size_t block_size : {8u, 24u, 64u})
      for (const Mask mask : {Mask{0, 0}, Mask{50, 11}, Mask{1, 20}, Mask{530, 7}}) {
        CAPTURE(static_cast<int>(element));
        CAPTURE(block_size);
        CAPTURE(mask.window);
        Cache whole(element, element, text.head_dim, block_size, text.n_tokens);
        whole.write(reference, text.k, text.v, kAll);
        const std::vector<float> expected = text.attend(reference, whole, mask);

        const auto wanted = [&](std::size_t p) {
          for (std::size_t i = 0; i < text.positions.size(); ++i)
            if (mask.shows(first + i, p)) return true;
          return false;
        };
        for (const std::string& isa : available_isas()) {
          CAPTURE(isa);
          const KernelTable& kernels = kernels_for(isa);
          Cache poor(element, element, text.head_dim, block_size, text.n_tokens);
          poor.write(kernels, text.k, text.v, wanted);
          poor.let_go(text.n_tokens, wanted);
          CHECK(same_bits(text.attend(kernels, poor, mask), expected));
        }
      }
}

TEST_CASE("partitions joined one by one are the whole") {
  const Text text(1100, 5, 64);
  for (const Mask mask : {Mask{0, 0}, Mask{100, 4}, Mask{520, 0}}) {
    Cache cache(KVElement::Q8_0, KVElement::F16, text.head_dim, 16, text.n_tokens);
    const KernelTable& kernels = kernels_for("auto");
    cache.write(kernels, text.k, text.v, kAll);
    std::vector<float> y;
    const AttentionArgs args = text.args(cache, mask, y);
    std::vector<float> scratch(attention_scratch(text.head_dim));
    for (std::size_t head = 0; head < kKVHeads; ++head) {
      const AttentionItem item{head, 0, text.positions.size()};
      const AttentionPartitions partitions(attention_span(args, item));
      const std::size_t floats =
          attention_partial(item.n_tokens * (kHeads / kKVHeads), text.head_dim);
      std::vector<float> partials(partitions.n * floats);
      for (std::size_t i = 0; i < partitions.n; ++i)
        kernels.attention_partition(args, item, partitions[i], partials.data() + i * floats,
                                    scratch.data());
      kernels.attention_join(args, item, partitions.n, partials.data(), scratch.data());
    }
    CHECK(same_bits(y, text.attend(kernels, cache, mask)));
  }
}

}  // namespace quarrel::cpu
