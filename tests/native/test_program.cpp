#include <doctest/doctest.h>

#include <algorithm>
#include <cstddef>
#include <memory>
#include <optional>
#include <random>
#include <span>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "core/error.h"
#include "program/memory_planner.h"
#include "program/program.h"

namespace quarrel {
namespace {

constexpr std::size_t kHeadDim = 8;
constexpr std::size_t kKVWidth = 2 * kHeadDim;
constexpr std::size_t kVocabSize = 50;

// Bytes of the right length: recording looks at nothing else of a weight.
Weight make_weight(const std::string& name, std::size_t n_rows, std::size_t n_cols,
                   DType dtype = DType::F32) {
  auto bytes = std::make_shared<std::vector<std::byte>>(n_rows * row_bytes(dtype, n_cols));
  const std::span<const std::byte> data(*bytes);
  return {name, dtype, n_rows, n_cols, data, std::move(bytes)};
}

ProgramBuilder two_layers() { return ProgramBuilder({{2, kHeadDim, 0}, {2, kHeadDim, 512}}); }

template <class Call>
void refuses(Call call, const std::string& message) {
  CHECK_THROWS_WITH_AS(call(), message.c_str(), InvalidArgument);
}

// Records random ops; any value made so far may be an input, recent ones more often.
class RandomProgram {
 public:
  explicit RandomProgram(std::uint32_t seed) : random_(seed), builder_(two_layers()) {
    rope_table_ = builder_.rope_table(kHeadDim, 10000.0, false, 1.0, {});
    const std::size_t width = random_width();
    keep(builder_.embedding(matrix(kVocabSize, width), 1.0f), {RowSpace::Tokens, width});
  }

  std::shared_ptr<const Program> record(std::size_t n_ops) {
    for (std::size_t i = 0; i < n_ops; ++i) add_op(pick());
    const Value last = pick();
    const bool selected = last.info.rows == RowSpace::Selected;
    const ValueId rows = selected ? last.id : builder_.select_rows(last.id);
    const ValueId logits = builder_.linear(rows, matrix(kVocabSize, last.info.width), std::nullopt);
    // Ops after the logits must not touch them.
    if (below(2) == 0) builder_.scale(rows, 2.0f);
    return builder_.finish(logits);
  }

 private:
  struct Value {
    ValueId id;
    ValueInfo info;
  };

  std::size_t below(std::size_t n) { return random_() % n; }
  std::size_t random_width() { return kHeadDim * (1 + below(4)); }
  WeightId matrix(std::size_t n_rows, std::size_t n_cols) {
    return builder_.weight(make_weight("w", n_rows, n_cols));
  }
  void keep(ValueId id, ValueInfo info) { values_.push_back({id, info}); }

  Value pick() {
    const std::size_t n = below(2) == 0 ? std::min<std::size_t>(values_.size(), 3) : values_.size();
    return values_[values_.size() - 1 - below(n)];
  }
  Value pick_like(const Value& x) {
    std::vector<Value> alike;
    for (const Value& value : values_)
      if (value.info.rows == x.info.rows && value.info.width == x.info.width)
        alike.push_back(value);
    return alike[below(alike.size())];
  }

  void add_op(const Value& x) {
    const bool tokens = x.info.rows == RowSpace::Tokens;
    switch (below(tokens ? 12 : 8)) {
      case 0:
        return keep(builder_.rms_norm(x.id, matrix(1, x.info.width), 1e-5f), x.info);
      case 1:
      case 2: {
        const std::size_t width = random_width();
        const ValueId out = builder_.linear(x.id, matrix(width, x.info.width), std::nullopt);
        return keep(out, {x.info.rows, width});
      }
      case 3:
        return keep(builder_.add(x.id, pick_like(x).id, 1.0f), x.info);
      case 4:
        return keep(builder_.silu_mul(x.id, pick_like(x).id), x.info);
      case 5:
        return keep(builder_.gelu_mul(x.id, pick_like(x).id), x.info);
      case 6:
        return keep(builder_.scale(x.id, 0.5f), x.info);
      case 7:
        return keep(builder_.softcap(x.id, 30.0f), x.info);
      case 8:
        return keep(builder_.rope(x.id, rope_table_, kHeadDim), x.info);
      case 9:
        return keep(builder_.select_rows(x.id), {RowSpace::Selected, x.info.width});
      case 10:
        if (x.info.width == kKVWidth) builder_.kv_write(below(2), x.id, pick_like(x).id);
        return;
      default:
        if (x.info.width % kKVWidth == 0)
          keep(builder_.attention(below(2), x.id, x.info.width / kHeadDim, 1.0f, 0.0f), x.info);
    }
  }

  std::mt19937 random_;
  ProgramBuilder builder_;
  RopeId rope_table_;
  std::vector<Value> values_;
};

bool works_in_place(const OpKind& kind) {
  return std::holds_alternative<RopeOp>(kind) || std::holds_alternative<SiluMulOp>(kind) ||
         std::holds_alternative<GeluMulOp>(kind) || std::holds_alternative<AddOp>(kind) ||
         std::holds_alternative<ScaleOp>(kind) || std::holds_alternative<SoftcapOp>(kind);
}

// Plays a program on arenas whose cells remember which value was written there last.
class Replay {
 public:
  Replay(const Program& program, const MemoryPlan& plan)
      : program_(program),
        plan_(plan),
        tokens_(plan.token_width, -1),
        selected_(plan.selected_width, -1) {}

  // The first fault, or "" when every op found its inputs whole.
  std::string run() {
    for (std::size_t i = 0; i < program_.ops.size(); ++i) {
      const Op& op = program_.ops[i];
      const std::string at = " at op " + std::to_string(i);
      for (const ValueId in : op.inputs)
        if (!is_whole(in)) return "value " + std::to_string(in.index) + " is overwritten" + at;
      if (!op.output) continue;
      if (!fits(*op.output)) return "the output leaves its arena" + at;
      for (const ValueId in : op.inputs)
        if (overlap(in, *op.output) && !(works_in_place(op.kind) && coincide(in, *op.output)))
          return "the output lies over an input that is still read" + at;
      std::ranges::fill(cells(*op.output), op.output->index);
    }
    return is_whole(program_.logits) ? "" : "the logits are overwritten";
  }

 private:
  std::size_t offset(ValueId id) const { return plan_.offsets[static_cast<std::size_t>(id.index)]; }
  std::vector<int>& arena(ValueId id) {
    return program_.value(id).rows == RowSpace::Tokens ? tokens_ : selected_;
  }
  bool fits(ValueId id) { return offset(id) + program_.value(id).width <= arena(id).size(); }
  std::span<int> cells(ValueId id) {
    return std::span(arena(id)).subspan(offset(id), program_.value(id).width);
  }
  bool is_whole(ValueId id) {
    return std::ranges::all_of(cells(id), [&](int owner) { return owner == id.index; });
  }
  bool overlap(ValueId a, ValueId b) {
    return &arena(a) == &arena(b) && offset(a) < offset(b) + program_.value(b).width &&
           offset(b) < offset(a) + program_.value(a).width;
  }
  bool coincide(ValueId a, ValueId b) {
    return offset(a) == offset(b) && program_.value(a).width == program_.value(b).width;
  }

  const Program& program_;
  const MemoryPlan& plan_;
  std::vector<int> tokens_;
  std::vector<int> selected_;
};

}  // namespace

TEST_CASE("no two live values of a random program share memory") {
  for (std::uint32_t seed = 0; seed < 2000; ++seed) {
    const auto program = RandomProgram(seed).record(1 + seed % 60);
    const MemoryPlan plan = plan_memory(*program);
    const std::string fault = Replay(*program, plan).run();
    CAPTURE(seed);
    REQUIRE(fault == "");
  }
}

TEST_CASE("the replay would notice values that share memory") {
  const auto program = RandomProgram(1).record(40);
  MemoryPlan plan = plan_memory(*program);
  std::ranges::fill(plan.offsets, std::size_t{0});
  CHECK(Replay(*program, plan).run() != "");
}

TEST_CASE("a residual stream takes the room of its widest moment, however deep the model") {
  for (const int n_layers : {1, 2, 30}) {
    ProgramBuilder b = two_layers();
    ValueId x = b.embedding(b.weight(make_weight("table", kVocabSize, 32)), 1.0f);
    for (int layer = 0; layer < n_layers; ++layer) {
      const ValueId normed = b.rms_norm(x, b.weight(make_weight("norm", 1, 32)), 1e-5f);
      const ValueId gate = b.linear(normed, b.weight(make_weight("gate", 96, 32)), std::nullopt);
      const ValueId up = b.linear(normed, b.weight(make_weight("up", 96, 32)), std::nullopt);
      const ValueId act = b.silu_mul(gate, up);
      x = b.add(x, b.linear(act, b.weight(make_weight("down", 32, 96)), std::nullopt), 1.0f);
    }
    const ValueId rows = b.select_rows(x);
    const auto program =
        b.finish(b.linear(rows, b.weight(make_weight("out", kVocabSize, 32)), std::nullopt));
    const MemoryPlan plan = plan_memory(*program);
    CHECK(plan.token_width == 32 + 32 + 96 + 96);  // x, normed, gate, up
    CHECK(plan.selected_width == 32 + kVocabSize);
  }
}

TEST_CASE("layers are grouped by their attention span, and a tied tensor counts once") {
  ProgramBuilder b({{2, 8, 512}, {2, 8, 512}, {2, 8, 0}, {2, 8, 512}});
  const Weight tied = make_weight("tied", kVocabSize, 16);
  const ValueId x = b.embedding(b.weight(tied), 1.0f);
  const auto program = b.finish(b.linear(b.select_rows(x), b.weight(tied), std::nullopt));
  REQUIRE(program->groups.size() == 2);
  CHECK(program->groups[0].window == 512);
  CHECK(program->groups[0].layers == std::vector<std::size_t>{0, 1, 3});
  CHECK(program->groups[1].layers == std::vector<std::size_t>{2});
  CHECK(program->group_of_layer == std::vector<std::size_t>{0, 0, 1, 0});
  CHECK(program->weight_bytes() == tied.data.size());
}

TEST_CASE("rope tables follow the published formula, scaled as the file says") {
  ProgramBuilder b = two_layers();
  const std::vector<float> factors{1.0f, 4.0f};
  b.rope_table(4, 10000.0, true, 8.0, factors);
  const ValueId x = b.embedding(b.weight(make_weight("table", kVocabSize, 8)), 1.0f);
  const auto program = b.finish(b.select_rows(x));
  const auto& table = program->ropes.at(0);
  CHECK(table.interleaved);
  REQUIRE(table.inverse_frequencies.size() == 2);
  CHECK(table.inverse_frequencies[0] == 1.0 / 8.0);
  CHECK(table.inverse_frequencies[1] == doctest::Approx(0.01 / 4.0 / 8.0).epsilon(1e-15));
}

TEST_CASE("weights and rope tables of the wrong size are refused") {
  ProgramBuilder b = two_layers();
  Weight cut = make_weight("cut", 3, 32, DType::Q8_0);
  cut.data = cut.data.first(cut.data.size() - 1);
  refuses([&] { b.weight(cut); }, "[weight] expected cut of 102 bytes, got 101");
  refuses([&] { b.rope_table(7, 1e4, false, 1.0, {}); },
          "[rope] expected an even number of rotated elements, got 7");
  refuses([&] { b.rope_table(0, 1e4, false, 1.0, {}); },
          "[rope] expected an even number of rotated elements, got 0");
  refuses([&] { b.rope_table(8, 1e4, false, 1.0, {1.0f}); },
          "[rope] expected 4 frequency factors, got 1");
}

TEST_CASE("an op whose shapes do not fit is refused, naming the op") {
  ProgramBuilder b = two_layers();
  const WeightId square = b.weight(make_weight("square", 16, 16));
  const WeightId odd = b.weight(make_weight("odd", 1, 24));
  const WeightId quantised = b.weight(make_weight("quantised", 1, 32, DType::Q8_0));
  const RopeId table = b.rope_table(16, 1e4, false, 1.0, {});
  const ValueId x = b.embedding(square, 1.0f);
  const ValueId wide = b.linear(x, b.weight(make_weight("wide", 32, 16)), std::nullopt);

  refuses([&] { b.rms_norm(x, square, 1e-5f); },
          "[rms_norm] expected square to be one row of F32, got F32 with 16 rows");
  refuses([&] { b.rms_norm(wide, quantised, 1e-5f); },
          "[rms_norm] expected quantised to be one row of F32, got Q8_0 with 1 rows");
  refuses([&] { b.rms_norm(x, odd, 1e-5f); },
          "[rms_norm] expected a width that is a multiple of 24, got 16");
  refuses([&] { b.linear(wide, square, std::nullopt); },
          "[linear] expected an input of square of width 16, got width 32");
  refuses([&] { b.linear(x, square, odd); }, "[linear] expected odd of width 16, got width 24");
  refuses([&] { b.linear(x, square, quantised); }, "[linear] expected quantised of F32, got Q8_0");
  refuses([&] { b.rope(x, table, 8); },
          "[rope] expected whole heads of at least 16, got width 16, head_dim 8");
  refuses([&] { b.rope(x, table, 24); },
          "[rope] expected whole heads of at least 16, got width 16, head_dim 24");
  refuses([&] { b.kv_write(0, wide, x); }, "[kv_write] expected k of width 16, got width 32");
  refuses([&] { b.kv_write(0, x, wide); }, "[kv_write] expected v of width 16, got width 32");
  refuses([&] { b.kv_write(2, x, x); }, "[kv_write] expected a layer below 2, got 2");
  refuses([&] { b.attention(2, x, 2, 1.0f, 0.0f); }, "[attention] expected a layer below 2, got 2");
  refuses([&] { b.attention(0, x, 4, 1.0f, 0.0f); },
          "[attention] expected q of width 32, got width 16");
  refuses([&] { b.add(x, wide, 1.0f); }, "[add] expected b of width 16, got width 32");
  refuses([&] { b.silu_mul(x, wide); }, "[silu_mul] expected up of width 16, got width 32");
  refuses([&] { b.gelu_mul(wide, x); }, "[gelu_mul] expected up of width 32, got width 16");
}

TEST_CASE("a layer without KV heads or elements is refused") {
  refuses([] { ProgramBuilder({{0, 8, 0}}); },
          "[kv_layer] expected at least one KV head of at least one element, got 0 of 8");
  refuses([] { ProgramBuilder({{2, 0, 0}}); },
          "[kv_layer] expected at least one KV head of at least one element, got 2 of 0");
}

TEST_CASE("query heads are a multiple of KV heads") {
  ProgramBuilder b = two_layers();
  const ValueId q = b.embedding(b.weight(make_weight("table", kVocabSize, 24)), 1.0f);
  refuses([&] { b.attention(0, q, 3, 1.0f, 0.0f); },
          "[attention] expected n_heads to be a multiple of n_kv_heads, got 3 and 2");
}

TEST_CASE("handles of another builder and rows of the wrong kind are refused") {
  ProgramBuilder b = two_layers();
  const ValueId x = b.embedding(b.weight(make_weight("table", kVocabSize, 16)), 1.0f);
  refuses([&] { b.scale({7}, 1.0f); }, "[scale] expected a value of this builder, got value 7");
  refuses([&] { b.scale({}, 1.0f); }, "[scale] expected a value of this builder, got value -1");
  refuses([&] { b.linear(x, {9}, std::nullopt); },
          "[linear] expected a weight of this builder, got weight 9");
  refuses([&] { b.rope(x, {3}, 8); }, "[rope] expected a rope table of this builder, got 3");
  const ValueId rows = b.select_rows(x);
  refuses([&] { b.select_rows(rows); },
          "[select_rows] expected a row per token, got selected rows");
  refuses([&] { b.finish(x); }, "[logits] expected selected rows, got a row per token");

  const std::string mixed =
      " expected both inputs to have a row per token, or both selected rows, got one of each";
  refuses([&] { b.add(x, rows, 1.0f); }, "[add]" + mixed);
  refuses([&] { b.silu_mul(rows, x); }, "[silu_mul]" + mixed);
  refuses([&] { b.gelu_mul(x, rows); }, "[gelu_mul]" + mixed);
  const std::string selected = " expected a row per token, got selected rows";
  refuses([&] { b.kv_write(0, rows, x); }, "[kv_write]" + selected);
  refuses([&] { b.kv_write(0, x, rows); }, "[kv_write]" + selected);
  refuses([&] { b.attention(0, rows, 2, 1.0f, 0.0f); }, "[attention]" + selected);
  refuses([&] { b.rope(rows, b.rope_table(8, 1e4, false, 1.0, {}), 8); }, "[rope]" + selected);
}

}  // namespace quarrel
