// cache_*: what the bookkeeping of a cache costs, without any tensor. A text has --depth tokens.
// Hashes are of block tables, so they differ between strategies.
#include <functional>
#include <numeric>
#include <string>
#include <vector>

#include "cache/block_hash.h"
#include "cache/kv_cache.h"
#include "core/error.h"
#include "op.h"
#include "program/step_assembler.h"
#include "texts.h"

namespace quarrel::bench {
namespace {

constexpr std::size_t kVocab = 50000;
constexpr std::size_t kRoundsOfSteps = 4096;  // at most, of cache_step

// what: no std::string, whose making would be counted as an allocation of the cache.
void expect(bool ok, const char* what) {
  if (!ok) throw Error(std::string("[cache] ") + what);
}

std::vector<TokenId> text_of(std::size_t n_tokens, std::size_t text) {
  std::vector<TokenId> tokens(n_tokens);
  for (std::size_t i = 0; i < n_tokens; ++i) tokens[i] = token_at(text, i, kVocab);
  return tokens;
}

// One cache that has room for n_texts of --depth tokens.
class Book {
 public:
  Book(const Setup& setup, std::size_t n_texts)
      : n_tokens_(setup.at.depth),
        block_size_(setup.options.block_size),
        prompt_(text_of(n_tokens_, 1)),
        cache_(make_cache(setup.at.cache, n_texts * n_blocks(), block_size_, mask_of(setup.options),
                          n_tokens_, /*reuse_prefixes=*/true)) {}

  std::size_t n_tokens() const { return n_tokens_; }
  std::size_t n_blocks() const { return (n_tokens_ + block_size_ - 1) / block_size_; }
  const std::vector<TokenId>& prompt() const { return prompt_; }
  KVCache& cache() { return *cache_; }

  SequenceId id{};

  void open() { id = cache_->match_prefix({}, n_tokens_).sequence; }
  void close() { cache_->release(id); }
  void reopen() { close(), open(); }
  void reserve() { expect(cache_->reserve(id, n_tokens_).ok, "reserve found no room"); }
  void fill(const std::vector<TokenId>& tokens) {
    reserve();
    cache_->commit(id, tokens);
  }
  std::uint64_t hash(SequenceId sequence) const {
    return chain_hash(0, cache_->view(sequence).block_tables[0]);
  }

 private:
  const std::size_t n_tokens_;
  const std::size_t block_size_;
  const std::vector<TokenId> prompt_;
  std::unique_ptr<KVCache> cache_;
};

// What one cache operation does, how it is undone, and what must hold after it.
struct Work {
  std::function<void()> prepare;
  std::function<void()> body;
  std::function<void(const Timing&)> verify;
  std::function<std::uint64_t()> hash;
  double n_operations;
  std::string_view unit;
};

Work allocate(const Setup&, Book& book) {
  book.open();
  return {[&] { book.reopen(); },
          [&] { book.reserve(); },
          [&](const Timing&) {
            const auto table = book.cache().view(book.id).block_tables[0];
            expect(table.size() >= book.n_blocks(), "allocate gave too few blocks");
          },
          [&] { return book.hash(book.id); },
          static_cast<double>(book.n_blocks()),
          "block"};
}

Work append(const Setup&, Book& book) {
  book.open();
  return {[&] {
            book.reopen();
            book.reserve();
          },
          [&] { book.cache().commit(book.id, book.prompt()); },
          [&](const Timing&) {
            const std::size_t n = book.cache().view(book.id).n_tokens;
            expect(n == book.n_tokens(), "append lost tokens");
          },
          [&] { return book.hash(book.id); },
          static_cast<double>(book.n_tokens()),
          "token"};
}

Work fork(const Setup&, Book& book) {
  book.open();
  book.fill(book.prompt());
  auto child = std::make_shared<SequenceId>(book.cache().fork(book.id).sequence);
  return {[&book, child] { book.cache().release(*child); },
          [&book, child] {
            const Fork forked = book.cache().fork(book.id);
            expect(forked.reservation.ok, "fork found no room");
            *child = forked.sequence;
          },
          [&book, child](const Timing&) {
            expect(book.cache().view(*child).n_tokens == book.n_tokens(), "fork lost tokens");
          },
          [&book, child] { return book.hash(*child); },
          1,
          "sequence"};
}

Work match(const Setup&, Book& book) {
  book.open();
  book.fill(book.prompt());
  const auto find = [&] {
    const PrefixMatch found = book.cache().match_prefix(book.prompt(), book.n_tokens());
    book.id = found.sequence;
    return found.n_tokens;
  };
  return {[&] { book.close(); },
          find,
          [&, find](const Timing&) {
            book.close();
            const std::size_t n = find();
            const std::size_t block = book.cache().block_size();
            expect(n >= (book.n_tokens() - 1) / block * block && n < book.n_tokens(),
                   "match found less than the whole blocks of the prompt");
          },
          [&] { return book.hash(book.id); },
          1,
          "prompt"};
}

// The memory is full of a text that nobody holds any more, each time of another one.
Work evict(const Setup&, Book& book) {
  auto other = std::make_shared<std::vector<TokenId>>(text_of(book.n_tokens(), 2));
  auto turn = std::make_shared<std::size_t>(0);
  book.open();
  return {[&book, other, turn] {
            book.reopen();
            book.fill(++*turn % 2 == 0 ? book.prompt() : *other);
            book.reopen();
          },
          [&] { book.reserve(); },
          [&](const Timing&) {
            expect(book.cache().stats().n_evicted_blocks > 0, "nothing was evicted");
          },
          [&] { return book.hash(book.id); },
          static_cast<double>(book.n_blocks()),
          "block"};
}

template <Work (*kMake)(const Setup&, Book&), std::size_t kTexts>
Performance measure_op(const Setup& setup) {
  Book book(setup, kTexts);
  const Work work = kMake(setup, book);
  const Timing timing = measure(setup.options, work.prepare, work.body);
  return {timing, work.n_operations, work.unit, 0, 0, work.hash()};
}

// Tests look at what came out, and at the strategy's own invariants.
template <Work (*kMake)(const Setup&, Book&), std::size_t kTexts>
Comparison verify_op(const Setup& setup) {
  Book book(setup, kTexts);
  const Work work = kMake(setup, book);
  const Timing timing = measure(setup.options, work.prepare, work.body);
  book.cache().check_invariants();
  const std::uint64_t hash = work.hash();
  work.verify(timing);
  return {0, 0, hash};
}

// reserve, assemble and commit of a batch of decodes; texts are staggered, so that each step starts
// a block in some of them.
class Steps {
 public:
  explicit Steps(const Setup& setup)
      : n_rounds_(setup.options.repeat != 0 ? setup.options.repeat + 8 : kRoundsOfSteps),
        block_(setup.options.block_size),
        max_tokens_(setup.at.depth + n_rounds_ + block_),
        cache_(make_cache(setup.at.cache, setup.at.batch * (max_tokens_ / block_ + 2), block_,
                          mask_of(setup.options), max_tokens_, /*reuse_prefixes=*/true)),
        starts_(setup.at.batch + 1),
        tokens_(setup.at.batch, 7),
        assembler_(kVocab) {
    std::iota(starts_.begin(), starts_.end(), 0);
    for (std::size_t s = 0; s < setup.at.batch; ++s) {
      const auto text = text_of(setup.at.depth - std::min(setup.at.depth, s % block_), s);
      sequences_.push_back(cache_->match_prefix({}, max_tokens_).sequence);
      expect(cache_->reserve(sequences_[s], text.size()).ok, "reserve found no room");
      cache_->commit(sequences_[s], text);
    }
  }

  void next_token() { tokens_[0] = (tokens_[0] + 1) % static_cast<TokenId>(kVocab); }

  void run() {
    for (const SequenceId id : sequences_)
      expect(cache_->reserve(id, 1).ok, "reserve found no room");
    const auto rows = std::span(starts_).first(sequences_.size());
    const StepInputs inputs =
        assembler_.assemble({sequences_, starts_, tokens_, rows, sequences_.size()}, *cache_);
    if (n_hashed_ < kHashed) {
      hash_ = chain_hash(hash_, inputs.groups[0].slot_mapping);
      ++n_hashed_;
    }
    for (std::size_t s = 0; s < sequences_.size(); ++s)
      cache_->commit(sequences_[s], std::span(tokens_).subspan(s, 1));
  }

  std::uint64_t hash() const { return hash_; }
  const KVCache& cache() const { return *cache_; }

 private:
  // Steps that every run makes, however fast the machine.
  static constexpr std::size_t kHashed = 4;

  const std::size_t n_rounds_;
  const std::size_t block_;
  const std::size_t max_tokens_;
  std::unique_ptr<KVCache> cache_;
  std::vector<SequenceId> sequences_;
  std::vector<std::int32_t> starts_;
  std::vector<TokenId> tokens_;
  StepAssembler assembler_;
  std::uint64_t hash_ = 0;
  std::size_t n_hashed_ = 0;
};

Timing time_steps(const Setup& setup, Steps& steps) {
  return measure(setup.options, [&] { steps.next_token(); }, [&] { steps.run(); });
}

Performance measure_steps(const Setup& setup) {
  Steps steps(setup);
  const Timing timing = time_steps(setup, steps);
  return {timing, 1, "step", 0, 0, steps.hash()};
}

// The error is the number of heap allocations of a step in the middle: there must be none.
Comparison verify_steps(const Setup& setup) {
  Steps steps(setup);
  const Timing timing = time_steps(setup, steps);
  steps.cache().check_invariants();
  return {timing.allocations, 0, steps.hash()};
}

void check(const Setup& setup) {
  if (setup.at.depth < 2)
    throw InvalidArgument("[cache] expected a --depth of at least 2 tokens, got " +
                          std::to_string(setup.at.depth));
}

std::string shape(const Options& o) { return "block_size=" + std::to_string(o.block_size); }

constexpr Axes kAxes{.device = false, .cache = true, .depth = true};
constexpr OpSpec kOps[] = {
    {"cache_allocate", kAxes, shape, check, measure_op<allocate, 1>, verify_op<allocate, 1>},
    {"cache_append", kAxes, shape, check, measure_op<append, 1>, verify_op<append, 1>},
    {"cache_fork", kAxes, shape, check, measure_op<fork, 2>, verify_op<fork, 2>},
    {"cache_match", kAxes, shape, check, measure_op<match, 1>, verify_op<match, 1>},
    {"cache_evict", kAxes, shape, check, measure_op<evict, 1>, verify_op<evict, 1>},
    {"cache_step",
     {.device = false, .cache = true, .depth = true, .batch = true},
     shape,
     check,
     measure_steps,
     verify_steps},
};

}  // namespace

std::span<const OpSpec> cache_ops() { return kOps; }

}  // namespace quarrel::bench
