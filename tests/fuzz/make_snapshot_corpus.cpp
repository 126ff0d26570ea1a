// make_snapshot_corpus FOLDER: a saved prefix cache of every cache that fuzz_snapshot loads into.
#include <cstdio>
#include <fstream>
#include <string>

#include "cache_twin.h"

int main(int argc, char** argv) {
  using namespace quarrel::testing;
  if (argc != 2) return std::fputs("usage: make_snapshot_corpus FOLDER\n", stderr), 2;
  for (std::size_t index = 0; index < kDriven; ++index) {
    Driven d = driven(index);
    TwinStore::Memory memory;
    for (const std::size_t n : d.n_blocks) memory.emplace_back(n * d.cache->block_size(), 0);
    TwinStore store(memory, d.cache->block_size());
    for (const quarrel::TokenId last : {0, 1}) {
      std::vector<quarrel::TokenId> text(13, 0);
      text.back() = text[6] = last;
      const auto match = d.cache->match_prefix(text, 20);
      const auto rest = std::span(text).subspan(match.n_tokens);
      if (!d.cache->reserve(match.sequence, rest.size()).ok) return 1;
      d.cache->commit(match.sequence, rest);
      d.cache->release(match.sequence);
    }
    std::ofstream file(std::string(argv[1]) + "/" + std::to_string(index), std::ios::binary);
    file.put(static_cast<char>(2 * index + 1));
    const auto write = [&](std::span<const std::byte> bytes) {
      file.write(reinterpret_cast<const char*>(bytes.data()),
                 static_cast<std::streamsize>(bytes.size()));
    };
    quarrel::save_prefix_cache(write, *d.cache, store, {{"model", "twin"}});
    if (!file.flush()) return 1;
  }
  return 0;
}
