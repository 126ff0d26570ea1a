// The file format of snapshots, and what strategies take from one: exact blocks, lies in files.
#include <doctest/doctest.h>

#include <functional>
#include <numeric>

#include "cache/block_hash.h"
#include "cache_twin.h"
#include "core/checksum.h"
#include "core/error.h"

namespace quarrel::testing {
namespace {

using Ids = std::vector<BlockId>;
using Tokens = std::vector<TokenId>;
using Bytes = std::vector<std::byte>;

const SnapshotIdentity kIdentity{{"model", "one"}};

Tokens iota(std::size_t n, TokenId first = 0) {
  Tokens tokens(n);
  std::iota(tokens.begin(), tokens.end(), first);
  return tokens;
}

// A cache and the memory behind it; slot s of group g holds 1000 g + s once it was written.
struct Held {
  explicit Held(std::unique_ptr<KVCache> made, std::vector<std::size_t> n_blocks)
      : cache(std::move(made)) {
    for (const std::size_t n : n_blocks) memory.emplace_back(n * cache->block_size(), 0);
    store.set_block_size(cache->block_size());
  }

  SequenceId fill(const Tokens& tokens) {
    const PrefixMatch match = cache->match_prefix(tokens, tokens.size() + 8);
    const auto rest = std::span(tokens).subspan(match.n_tokens);
    REQUIRE(cache->reserve(match.sequence, rest.size()).ok);
    cache->commit(match.sequence, rest);
    return match.sequence;
  }

  Bytes save() {
    Bytes file;
    save_prefix_cache([&](auto bytes) { file.insert(file.end(), bytes.begin(), bytes.end()); },
                      *cache, store, kIdentity);
    return file;
  }

  SnapshotFigures load(const Bytes& file) {
    const auto figures =
        load_prefix_cache(std::make_unique<MemorySource>(file), *cache, store, kIdentity);
    cache->check_invariants();
    return figures;
  }

  std::unique_ptr<KVCache> cache;
  TwinStore::Memory memory;
  TwinStore store{memory};
};

std::unique_ptr<Held> paged(std::vector<GroupSpec> groups, std::vector<std::size_t> n_blocks) {
  return std::make_unique<Held>(
      std::make_unique<PagedCache>(paged_config(std::move(groups), 4, n_blocks)), n_blocks);
}

// Where the format puts things, for files of one group and blocks of four tokens.
constexpr std::size_t kFileBytesAt = 48;
constexpr std::size_t kRecord = 20 + 4 * 4;

std::size_t header_bytes(const Bytes& file) { return std::to_integer<std::size_t>(file[12]); }

void put(Bytes& file, std::size_t at, std::uint64_t value, std::size_t n) {
  for (std::size_t i = 0; i < n; ++i) file[at + i] = static_cast<std::byte>(value >> 8 * i);
}

void seal(Bytes& file, std::size_t begin, std::size_t end) {
  put(file, end - 8, xxh64(std::span(file).subspan(begin, end - 8 - begin)), 8);
}

// What a reader says of a file whose maker lies, with checksums that agree.
std::string refusal(Bytes file, const std::function<void(Bytes&)>& lie) {
  const std::size_t n = header_bytes(file);
  lie(file);
  seal(file, 0, n);
  auto target = paged({{}}, {8});
  try {
    target->load(file);
  } catch (const SnapshotError& e) {
    CHECK(target->cache->stats().n_cached_blocks == 0);
    return e.what();
  }
  return "";
}

Bytes two_texts() {
  auto held = paged({{}}, {8});
  held->cache->release(held->fill(iota(9)));
  held->cache->release(held->fill(iota(5, 100)));
  return held->save();
}

}  // namespace

TEST_CASE("snapshot: liars with right checksums are refused") {
  const Bytes file = two_texts();
  const std::size_t n = header_bytes(file);
  const auto says = [&](const std::function<void(Bytes&)>& lie, const char* part) {
    const std::string message = refusal(file, lie);
    CAPTURE(message);
    CHECK(message.find(part) != std::string::npos);
  };
  const auto text_lie = [&](std::size_t record, std::size_t at, std::uint64_t value,
                            std::size_t size) {
    return [=](Bytes& f) {
      put(f, n + record * kRecord + at, value, size);
      seal(f, n, n + 3 * kRecord + 8);
    };
  };
  CHECK(refusal(file, [](Bytes&) {}).empty());
  says([](Bytes& f) { put(f, 32, ~0ull, 8); }, "more of them than bytes");         // text blocks
  says([](Bytes& f) { put(f, 32, 0x0fffffffffffffff, 8); }, "more of them than");  // overflows
  says([](Bytes& f) { put(f, 32, 2, 8); }, "texts");
  says([](Bytes& f) { put(f, 40, 7, 8); }, "name every block");  // blocks
  says([](Bytes& f) { put(f, kFileBytesAt, 1, 8); }, "of 1 bytes");
  says([](Bytes& f) { put(f, 24, ~0u, 4); }, "do not fill it");  // groups
  says([](Bytes& f) { put(f, 28, ~0u, 4); }, "do not fill it");  // identity
  says([](Bytes& f) { put(f, 20, 1, 4); }, "another shape");     // block size
  says([](Bytes& f) { put(f, 16, 9, 4); }, "does not hold");     // kind
  says([](Bytes& f) { put(f, 64, ~0u, 4); }, "do not fill it");  // a name's length
  says(text_lie(0, 0, 0, 4), "follows none");                    // its own parent
  says(text_lie(1, 0, 2, 4), "follows none");                    // a later one
  says(text_lie(1, 0, ~1u, 4), "follows none");
  says(text_lie(0, 4, 0, 4), "impossible length");
  says(text_lie(0, 4, 5, 4), "impossible length");
  says(text_lie(0, 8, 2, 4), "impossible length or group");
  says(text_lie(0, 12, 1, 8), "another text's hash");
  says(text_lie(1, 20, 77, 4), "another text's hash");  // a token
  says(text_lie(1, 8, 0, 4), "name every block");       // held by no group
}

TEST_CASE("snapshot: loading evicts what nobody holds, in order, and nothing else") {
  const Bytes file = two_texts();  // 3 blocks
  auto held = paged({{}}, {6});
  const auto user = held->fill(iota(5, 200));       // 0 1
  held->cache->release(held->fill(iota(12, 300)));  // 2 3 4
  CHECK(held->load(file).n_blocks == 3);
  const CacheStats stats = held->cache->stats();
  CHECK(stats.n_used_blocks == 2);
  CHECK(stats.n_evicted_blocks == 2);  // one was free
  CHECK(held->cache->match_prefix(iota(13, 300), 20).n_tokens == 4);
  CHECK(held->cache->match_prefix(iota(9), 20).n_tokens == 8);
  CHECK(held->cache->match_prefix(iota(5, 100), 20).n_tokens == 4);
  CHECK(held->cache->view(user).n_tokens == 5);
}

TEST_CASE("snapshot: what does not fit is left out from the tails of what was used first") {
  const Bytes file = two_texts();
  auto held = paged({{}}, {2});
  CHECK(held->load(file).n_tokens == 8);
  CHECK(held->cache->match_prefix(iota(5, 100), 20).n_tokens == 4);  // used last
  CHECK(held->cache->match_prefix(iota(9), 20).n_tokens == 4);
}

TEST_CASE("snapshot: a block that turns out damaged when it is taken undoes the loading") {
  // Good when it is checked, bad when it is read again.
  class Changing final : public ByteSource {
   public:
    explicit Changing(Bytes bytes) : bytes_(std::move(bytes)) {}
    const std::string& name() const override { return name_; }
    std::uint64_t size() const override { return bytes_.size(); }
    void read(std::uint64_t offset, std::span<std::byte> out) const override {
      std::ranges::copy(std::span(bytes_).subspan(offset, out.size()), out.begin());
      if (offset + out.size() == bytes_.size() && n_++ > 0) out[0] ^= std::byte{1};
    }

   private:
    const std::string name_ = "changing";
    Bytes bytes_;
    mutable int n_ = 0;
  };
  for (const bool contiguous : {false, true}) {
    auto held = contiguous
                    ? std::make_unique<Held>(std::make_unique<ContiguousCache>(1, 4, 8, true),
                                             std::vector<std::size_t>{8})
                    : paged({{}}, {8});
    CHECK_THROWS_AS(load_prefix_cache(std::make_unique<Changing>(two_texts()), *held->cache,
                                      held->store, kIdentity),
                    SnapshotError);
    held->cache->check_invariants();
    CHECK(held->cache->stats().n_cached_blocks == 0);
    CHECK(held->cache->stats().n_used_blocks == 0);
  }
}

TEST_CASE("snapshot: a restored sequence shares what is cached and fills the rest") {
  auto held = paged({{}}, {8});
  const auto ledger = MemoryLedger::create(1 << 20);
  const auto a = held->fill(iota(10));  // 0 1 2
  const SequenceSnapshot saved(*held->cache, held->store, a, iota(10), *ledger);
  CHECK(saved.n_bytes() == 3 * 4 * 8);
  CHECK(ledger->used_bytes(MemoryKind::Snapshots) == saved.n_bytes());
  CHECK_THROWS_AS(SequenceSnapshot(*held->cache, held->store, a, iota(9), *ledger),
                  InvalidArgument);
  held->cache->release(a);
  const Restored b = saved.restore(*held->cache, held->store, 12);
  REQUIRE(b.reservation.ok);
  REQUIRE(b.fills.size() == 1);  // the partly filled block; the others were still there
  CHECK(b.fills[0].text_block == 2);
  held->cache->check_invariants();
  CHECK(saved.restore(*held->cache, held->store, 9).reservation.reason == "sequence_full");
  const auto full = held->fill(iota(20, 500));
  const CacheStats before = held->cache->stats();
  CHECK(saved.restore(*held->cache, held->store, 12).reservation.reason == "no_free_blocks");
  CHECK(held->cache->stats().n_used_blocks == before.n_used_blocks);
  held->cache->release(full);
  held->cache->check_invariants();
  CHECK_THROWS_AS(
      SequenceSnapshot(*held->cache, held->store, b.sequence, iota(10), *MemoryLedger::create(8)),
      OutOfMemoryError);
}

TEST_CASE("paged: a fork copies one block of a group at most; a sequence wastes one at most") {
  PagedCache cache(paged_config({{}, {6, 0}}, 4, {64, 64}, "lru", false));
  for (std::size_t n = 1; n <= 40; ++n) {
    const auto parent = cache.match_prefix({}, 200).sequence;
    REQUIRE(cache.reserve(parent, n).ok);
    cache.commit(parent, iota(n));
    const auto child = cache.fork(parent).sequence;
    REQUIRE(cache.reserve(child, 1).ok);
    const auto copies = cache.take_copies();
    CHECK(copies.size() == (n % 4 == 0 ? 0 : 2));  // one of each group
    const SequenceView view = cache.view(parent);
    const auto n_held = [&](std::size_t g) {
      return static_cast<std::size_t>(std::ranges::count_if(
          view.block_tables[g], [](BlockId block) { return block != kNoBlock; }));
    };
    CHECK(n_held(0) * 4 < n + 4);
    // The window's first token may lie inside a block, and so may its last one.
    CHECK(n_held(1) * 4 < std::min(n, std::size_t{5}) + 2 * 4);
    cache.release(parent);
    cache.release(child);
  }
  CHECK(cache.stats().n_used_blocks == 0);
}

}  // namespace quarrel::testing
