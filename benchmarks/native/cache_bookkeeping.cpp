// What the KV cache's bookkeeping costs, without any tensor: quarrel_bench_cache [--toy].
//
// Prints one line per operation: the median of several rounds with its unit, the heap allocations
// per operation, and a hash of the block tables that came out, which must not change by itself.
// Exit code 1 if a decode step allocated or, unless it is a toy, took 50 us or longer.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <new>
#include <numeric>
#include <vector>

#include "cache/block_hash.h"
#include "cache/paged_cache.h"
#include "program/step_assembler.h"

namespace {
std::atomic<std::size_t> n_allocations{0};
}

void* operator new(std::size_t n) {
  ++n_allocations;
  if (void* memory = std::malloc(n)) return memory;
  throw std::bad_alloc();
}
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }

namespace quarrel {
namespace {

using Clock = std::chrono::steady_clock;

struct Sample {
  double microseconds;
  std::size_t allocations;
};

// The median over the rounds of what body() takes; prepare() is not counted.
template <class Prepare, class Body>
Sample measure(int rounds, const Prepare& prepare, const Body& body) {
  std::vector<double> times;
  std::vector<std::size_t> allocations;
  for (int i = 0; i < rounds; ++i) {
    prepare();
    const std::size_t before = n_allocations;
    const auto start = Clock::now();
    body();
    times.push_back(std::chrono::duration<double, std::micro>(Clock::now() - start).count());
    allocations.push_back(n_allocations - before);
  }
  std::ranges::sort(times);
  std::ranges::sort(allocations);
  return {times[times.size() / 2], allocations[allocations.size() / 2]};
}

void report(const char* name, const Sample& sample, std::size_t n_operations, const char* unit,
            std::uint64_t hash) {
  const auto n = static_cast<double>(n_operations);
  std::printf("%-42s %10.3f us/%-10s %8.2f allocations  hash %016llx\n", name,
              sample.microseconds / n, unit, static_cast<double>(sample.allocations) / n,
              static_cast<unsigned long long>(hash));
}

PagedCache make(std::size_t block_size, std::size_t n_blocks) {
  PagedConfig config;
  config.groups = {GroupSpec{}};
  config.block_size = block_size;
  config.n_blocks = {n_blocks};
  config.policies.push_back(make_eviction_policy("lru", n_blocks));
  return PagedCache(std::move(config));
}

std::vector<TokenId> text(std::size_t n, std::uint64_t seed) {
  std::vector<TokenId> tokens(n);
  for (std::size_t i = 0; i < n; ++i)
    tokens[i] = static_cast<TokenId>(mix_bits(seed * 1000003 + i) % 50000);
  return tokens;
}

std::uint64_t hash_of(const KVCache& cache, SequenceId id) {
  return chain_hash(0, cache.view(id).block_tables[0]);
}

SequenceId fill(KVCache& cache, std::span<const TokenId> tokens, std::size_t max_tokens) {
  const PrefixMatch match = cache.match_prefix(tokens, max_tokens);
  const auto rest = tokens.subspan(match.n_tokens);
  if (!cache.reserve(match.sequence, rest.size()).ok) std::abort();
  cache.commit(match.sequence, rest);
  return match.sequence;
}

// One long prompt: opening it cold, filling it, forking it, finding it again, evicting it.
void long_prompt(std::size_t n_tokens, int rounds) {
  constexpr std::size_t kBlock = 16;
  const std::size_t n_blocks = n_tokens / kBlock + 8;
  const auto prompt = text(n_tokens, 1);
  const auto other = text(n_tokens, 2);
  PagedCache cache = make(kBlock, n_blocks);
  SequenceId id{};
  SequenceId child{};

  const auto restart = [&] { id = cache.match_prefix({}, n_tokens + 64).sequence; };
  const auto finish = [&] { cache.release(id); };
  restart();
  auto sample =
      measure(rounds, [&] { finish(), restart(); }, [&] { (void)cache.reserve(id, n_tokens); });
  report("allocate", sample, n_tokens / kBlock, "block", hash_of(cache, id));

  sample = measure(
      rounds,
      [&] {
        finish(), restart();
        (void)cache.reserve(id, n_tokens);
      },
      [&] { cache.commit(id, prompt); });
  report("append and publish", sample, n_tokens, "token", hash_of(cache, id));

  child = cache.fork(id).sequence;
  sample = measure(rounds, [&] { cache.release(child); }, [&] { child = cache.fork(id).sequence; });
  report("fork", sample, 1, "sequence", hash_of(cache, child));
  cache.release(child);
  finish();

  id = cache.match_prefix(prompt, n_tokens).sequence;
  sample = measure(rounds, finish, [&] { id = cache.match_prefix(prompt, n_tokens).sequence; });
  report("match of the whole prompt", sample, 1, "prompt", hash_of(cache, id));
  finish();

  bool odd = false;
  restart();
  sample = measure(
      rounds,
      [&] {  // leave the pool full of the text that was not there last
        finish();
        id = fill(cache, odd ? prompt : other, n_tokens);
        odd = !odd;
        finish();
        restart();
      },
      [&] { (void)cache.reserve(id, n_tokens); });
  report("allocate by eviction", sample, n_tokens / kBlock, "block", hash_of(cache, id));
}

// reserve, assemble and commit for a batch of decodes; a sixteenth of them start a block. False if
// a step allocated or the median was no less than limit_us.
bool decode_step(std::size_t n_seqs, std::size_t n_tokens, int rounds, double limit_us) {
  constexpr std::size_t kBlock = 16;
  const auto n_rounds = static_cast<std::size_t>(rounds);
  PagedCache cache = make(kBlock, n_seqs * ((n_tokens + n_rounds) / kBlock + 4));
  std::vector<SequenceId> sequences;
  for (std::size_t s = 0; s < n_seqs; ++s)
    sequences.push_back(fill(cache, text(n_tokens - s % kBlock, s), n_tokens + n_rounds + kBlock));
  std::vector<std::int32_t> starts(n_seqs + 1);
  std::iota(starts.begin(), starts.end(), 0);
  std::vector<TokenId> tokens(n_seqs, 7);
  StepAssembler assembler(50000);
  std::uint64_t hash = 0;
  const auto step = [&] {
    for (const SequenceId id : sequences)
      if (!cache.reserve(id, 1).ok) std::abort();
    const StepInputs inputs =
        assembler.assemble({sequences, starts, tokens, std::span(starts).first(n_seqs)}, cache);
    hash = mix_bits(hash ^ static_cast<std::uint64_t>(inputs.groups[0].slot_mapping[0]));
    for (std::size_t s = 0; s < n_seqs; ++s)
      cache.commit(sequences[s], std::span(tokens).subspan(s, 1));
  };
  step();  // the assembler's arrays take their size
  const Sample sample = measure(rounds, [&] { tokens[0] += 1; }, step);
  char name[64];
  std::snprintf(name, sizeof name, "decode step, %zu sequences of %zu tokens", n_seqs, n_tokens);
  report(name, sample, 1, "step", hash);
  return sample.allocations == 0 && sample.microseconds < limit_us;
}

}  // namespace
}  // namespace quarrel

int main(int argc, char** argv) {
  const bool toy = argc > 1 && std::strcmp(argv[1], "--toy") == 0;
  quarrel::long_prompt(toy ? 1000 : 100000, toy ? 3 : 31);
  const bool lean =
      toy ? quarrel::decode_step(4, 100, 20, 1e6) : quarrel::decode_step(64, 8192, 301, 50);
  return lean ? 0 : 1;
}
