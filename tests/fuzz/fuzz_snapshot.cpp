// Any bytes are a saved prefix cache. The first says which cache loads them and whether their
// checksums are put right, without which the fuzzer would never get past them. Whatever is taken,
// the cache must be whole afterwards and go on working.
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "cache_twin.h"
#include "core/checksum.h"
#include "core/error.h"

namespace {

using Bytes = std::vector<std::byte>;

std::uint64_t number(const Bytes& file, std::size_t at, std::size_t n) {
  std::uint64_t value = 0;
  for (std::size_t i = 0; i < n && at + i < file.size(); ++i)
    value |= std::to_integer<std::uint64_t>(file[at + i]) << 8 * i;
  return value;
}

void put(Bytes& file, std::size_t at, std::uint64_t value) {
  for (std::size_t i = 0; i < 8; ++i) file[at + i] = static_cast<std::byte>(value >> 8 * i);
}

// Seals [begin, end) if that is a place for a section.
bool seal(Bytes& file, std::uint64_t begin, std::uint64_t end, std::uint64_t seed = 0) {
  if (end > file.size() || end < begin + 8) return false;
  put(file, end - 8, quarrel::xxh64(std::span(file).subspan(begin, end - 8 - begin), seed));
  return true;
}

void put_right(Bytes& file, std::size_t block_size) {
  const std::uint64_t header = number(file, 12, 4);
  if (file.size() < 56 || header > file.size()) return;
  put(file, 48, file.size());
  const std::uint64_t n_texts = number(file, 32, 8) % 1024;
  const std::uint64_t texts_end = header + n_texts * (20 + 4 * block_size) + 8;
  if (!seal(file, 0, header) || !seal(file, header, texts_end)) return;
  const std::uint64_t seed = number(file, header - 8, 8) ^ number(file, texts_end - 8, 8);
  const std::uint64_t record = 8 * block_size + 8;
  std::uint64_t at = texts_end;
  for (std::uint64_t i = 0; at + record <= file.size(); at += record)
    seal(file, at, at + record, quarrel::mix_bits(seed + i++));
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace quarrel::testing;
  if (size < 1) return 0;
  const std::size_t index = data[0] / 2 % kDriven;
  Driven d = driven(index);
  const auto bytes = std::as_bytes(std::span(data, size)).subspan(1);
  Bytes file(bytes.begin(), bytes.end());
  if (data[0] % 2 == 1) put_right(file, d.cache->block_size());
  TwinStore::Memory memory;
  for (const std::size_t n : d.n_blocks) memory.emplace_back(n * d.cache->block_size(), 0);
  TwinStore store(memory, d.cache->block_size());
  try {
    load_prefix_cache(std::make_unique<MemorySource>(file), *d.cache, store, {{"model", "twin"}});
  } catch (const quarrel::SnapshotError&) {
    require(d.cache->stats().n_cached_blocks == 0, "a refused file left something behind");
  }
  d.cache->check_invariants();
  require(d.cache->stats().n_used_blocks == 0, "somebody holds what was loaded");
  const std::vector<quarrel::TokenId> prompt(9, 0);
  const auto match = d.cache->match_prefix(prompt, 64);
  require(match.n_tokens < prompt.size(), "a match leaves nothing to compute");
  d.cache->release(match.sequence);
  d.cache->check_invariants();
  return 0;
}
