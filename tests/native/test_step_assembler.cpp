#include <doctest/doctest.h>

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "cache/contiguous_cache.h"
#include "core/error.h"
#include "program/step_assembler.h"

namespace quarrel {
namespace {

using Ints = std::vector<std::int32_t>;

constexpr std::size_t kVocabSize = 100;
constexpr std::size_t kBlockSize = 4;

Ints to_vector(std::span<const std::int32_t> values) { return {values.begin(), values.end()}; }

struct Step {
  std::vector<SequenceId> sequences;
  Ints query_start_loc;
  Ints token_ids;
  Ints selected_rows;

  StepRequest request() const { return {sequences, query_start_loc, token_ids, selected_rows}; }
};

// Two sequences: 5 committed tokens in blocks 0-1, none in blocks 2-4. Both may take a step of
// 3 and 6 tokens.
class TwoSequences {
 public:
  TwoSequences() : cache(2, kBlockSize, 8, false), assembler(kVocabSize) {
    const Ints prompt{1, 2, 3, 4, 5};
    first = cache.match_prefix(prompt, 8).sequence;
    REQUIRE(cache.reserve(first, 5).ok);
    cache.commit(first, prompt);
    REQUIRE(cache.reserve(first, 3).ok);
    second = cache.match_prefix(prompt, 12).sequence;
    REQUIRE(cache.reserve(second, 6).ok);
  }
  Step step() const {
    return {{first, second}, {0, 3, 9}, {6, 7, 8, 10, 11, 12, 13, 14, 15}, {2, 8}};
  }
  void refuses(const Step& wrong, const std::string& message) {
    CHECK_THROWS_WITH_AS(assembler.assemble(wrong.request(), cache), message.c_str(),
                         InvalidArgument);
  }

  ContiguousCache cache;
  StepAssembler assembler;
  SequenceId first{};
  SequenceId second{};
};

}  // namespace

TEST_CASE_FIXTURE(TwoSequences, "a step continues each sequence where its commits ended") {
  const Step step = this->step();
  const StepInputs inputs = assembler.assemble(step.request(), cache);
  CHECK(inputs.n_tokens() == 9);
  CHECK(inputs.n_seqs() == 2);
  CHECK(to_vector(inputs.token_ids) == step.token_ids);
  CHECK(to_vector(inputs.positions) == Ints{5, 6, 7, 0, 1, 2, 3, 4, 5});
  CHECK(to_vector(inputs.query_start_loc) == Ints{0, 3, 9});
  CHECK(to_vector(inputs.context_lens) == Ints{8, 6});
  CHECK(to_vector(inputs.selected_rows) == Ints{2, 8});
}

TEST_CASE_FIXTURE(TwoSequences, "slots follow the block table and short tables are padded") {
  const Step step = this->step();
  const StepInputs inputs = assembler.assemble(step.request(), cache);
  REQUIRE(inputs.groups.size() == 2);
  for (const GroupInputs& group : inputs.groups) {
    CHECK(to_vector(group.slot_mapping) == Ints{5, 6, 7, 8, 9, 10, 11, 12, 13});
    CHECK(group.max_blocks == 3);
    CHECK(to_vector(group.block_tables) == Ints{0, 1, kNoBlock, 2, 3, 4});
  }
}

TEST_CASE_FIXTURE(TwoSequences, "a smaller step after a larger one leaves nothing behind") {
  const Step large = step();
  assembler.assemble(large.request(), cache);
  const Step small{{first}, {0, 1}, {42}, {0}};
  const StepInputs inputs = assembler.assemble(small.request(), cache);
  CHECK(to_vector(inputs.positions) == Ints{5});
  CHECK(to_vector(inputs.context_lens) == Ints{6});
  CHECK(to_vector(inputs.groups[1].slot_mapping) == Ints{5});
  CHECK(to_vector(inputs.groups[1].block_tables) == Ints{0, 1});
}

namespace {

// A device's memory: everything is taken from one piece, and in no other way.
class DeviceMemory final : public StepMemory {
 public:
  void begin(const StepShape& shape) override {
    CHECK((shape.n_tokens == 9 && shape.n_seqs == 2 && shape.n_selected == 2));
    CHECK(std::vector<std::size_t>(shape.max_blocks.begin(), shape.max_blocks.end()) ==
          std::vector<std::size_t>{3, 3});
    ++n_begun;
    next_ = 0;
  }
  std::span<std::int32_t> take(std::size_t n) override {
    REQUIRE(n_begun > 0);
    const auto array = std::span(values_).subspan(next_, n);
    next_ += n;
    return array;
  }
  bool has(std::span<const std::int32_t> array) const {
    return array.data() >= values_.data() &&
           array.data() + array.size() <= values_.data() + values_.size();
  }

  int n_begun = 0;

 private:
  Ints values_ = Ints(9 + 2 * (9 + 6), 77);
  std::size_t next_ = 0;
};

}  // namespace

TEST_CASE_FIXTURE(TwoSequences, "tables are assembled where the device reads them") {
  const Step step = this->step();
  DeviceMemory memory;
  for (int i = 1; i <= 2; ++i) {
    const StepInputs inputs = assembler.assemble(step.request(), cache, memory);
    CHECK(memory.n_begun == i);
    CHECK(memory.has(inputs.positions));
    CHECK(to_vector(inputs.positions) == Ints{5, 6, 7, 0, 1, 2, 3, 4, 5});
    for (const GroupInputs& group : inputs.groups) {
      CHECK(memory.has(group.slot_mapping));
      CHECK(memory.has(group.block_tables));
      CHECK(to_vector(group.slot_mapping) == Ints{5, 6, 7, 8, 9, 10, 11, 12, 13});
      CHECK(to_vector(group.block_tables) == Ints{0, 1, kNoBlock, 2, 3, 4});
    }
  }
}

TEST_CASE_FIXTURE(TwoSequences, "a steady state reuses its arrays") {
  const Step step = this->step();
  const StepInputs before = assembler.assemble(step.request(), cache);
  const auto* positions = before.positions.data();
  const auto* slots = before.groups[0].slot_mapping.data();
  const auto* tables = before.groups[0].block_tables.data();
  const StepInputs after = assembler.assemble(step.request(), cache);
  CHECK(after.positions.data() == positions);
  CHECK(after.groups[0].slot_mapping.data() == slots);
  CHECK(after.groups[0].block_tables.data() == tables);
}

TEST_CASE_FIXTURE(TwoSequences, "a step that makes no sense is refused") {
  Step wrong = step();
  wrong.query_start_loc = {0, 9};
  refuses(wrong, "[step] expected n_seqs + 1 query starts");

  for (const Ints& starts : {Ints{1, 3, 9}, Ints{0, 3, 8}, Ints{0, 3, 10}}) {
    wrong = step();
    wrong.query_start_loc = starts;
    refuses(wrong, "[step] expected query starts to span all tokens");
  }
  for (const std::int32_t start : {0, 9, 12, -1}) {
    wrong = step();
    wrong.query_start_loc[1] = start;
    refuses(wrong, "[step] expected every sequence to have a token");
  }
  for (const std::int32_t id : {-1, 100}) {
    wrong = step();
    wrong.token_ids[4] = id;
    refuses(wrong, "[step] expected token ids below 100, got " + std::to_string(id));
  }
  for (const std::int32_t row : {-1, 9}) {
    wrong = step();
    wrong.selected_rows = {row};
    refuses(wrong, "[step] expected selected rows below 9");
  }
}

TEST_CASE_FIXTURE(TwoSequences, "tokens without a reserved slot and dead sequences are refused") {
  Step beyond{{first}, {0, 4}, {1, 2, 3, 4}, {3}};  // 5 + 4 tokens in two blocks of 4
  refuses(beyond, "[step] expected every token to have a slot");
  cache.release(second);
  CHECK_THROWS_AS(assembler.assemble(step().request(), cache), InvalidArgument);
}

}  // namespace quarrel
