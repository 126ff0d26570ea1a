#include <doctest/doctest.h>

#include <array>
#include <optional>
#include <string>
#include <vector>

#include "metal/fusion.h"
#include "metal/hazard_tracker.h"

namespace quarrel::metal {
namespace {

const std::array<int, 2> kBuffers{};

Access reads(std::size_t begin, std::size_t end, int buffer = 0) {
  return {&kBuffers[static_cast<std::size_t>(buffer)], begin, end, false};
}

Access writes(std::size_t begin, std::size_t end, int buffer = 0) {
  return {&kBuffers[static_cast<std::size_t>(buffer)], begin, end, true};
}

bool add(HazardTracker& tracker, const std::vector<Access>& accesses) {
  return tracker.add(accesses);
}

TEST_CASE("hazards: only dispatches that touch the same bytes wait") {
  HazardTracker tracker;
  CHECK_FALSE(add(tracker, {reads(0, 10), writes(10, 20)}));
  CHECK_FALSE(add(tracker, {reads(0, 10), writes(20, 30)}));  // two readers, other bytes written
  CHECK_FALSE(add(tracker, {writes(10, 20, 1)}));             // another buffer
  CHECK(add(tracker, {reads(29, 40), writes(50, 60)}));       // reads what was written
  CHECK_FALSE(add(tracker, {reads(10, 20)}));                 // that barrier covers it
  CHECK(add(tracker, {writes(12, 13)}));                      // writes what is being read
  CHECK(add(tracker, {writes(12, 13)}));                      // writes what was written
  CHECK_FALSE(add(tracker, {reads(13, 20), reads(0, 12)}));   // neighbours do not overlap
}

TEST_CASE("hazards: a dispatch does not wait for itself") {
  HazardTracker tracker;
  CHECK_FALSE(add(tracker, {reads(0, 10), writes(0, 10)}));
  tracker.clear();
  CHECK_FALSE(add(tracker, {reads(0, 10)}));
}

Weight matrix(const std::string& name, std::size_t n_rows, std::size_t n_cols,
              DType dtype = DType::F32) {
  auto bytes = std::make_shared<std::vector<std::byte>>(n_rows * row_bytes(dtype, n_cols));
  const std::span<const std::byte> data(*bytes);
  return {name, dtype, n_rows, n_cols, data, std::move(bytes)};
}

Weight row_of(const std::string& name, std::size_t n) { return matrix(name, 1, n); }

std::vector<Fusion> fusions(const Program& program) {
  std::vector<Fusion> all;
  for (const FusedStage& stage : fused_stages(program)) all.push_back(stage.fusion);
  return all;
}

TEST_CASE("fusion: a residual addition and the norm of its sum are one stage") {
  ProgramBuilder builder({});
  const WeightId whole = builder.weight(row_of("whole", 8));
  const WeightId head = builder.weight(row_of("head", 4));
  const ValueId x = builder.embedding(whole, 1.0f);
  const ValueId y = builder.scale(x, 2.0f);
  const ValueId sum = builder.add(x, y, 1.0f);
  const ValueId normed = builder.rms_norm(sum, whole, 1e-5f);
  const ValueId again = builder.add(sum, normed, 1.0f);
  const ValueId by_head = builder.rms_norm(again, head, 1e-5f);  // not of whole rows
  const ValueId last = builder.add(again, by_head, 1.0f);
  builder.rms_norm(again, whole, 1e-5f);  // not of that sum
  const auto program = builder.finish(builder.select_rows(last));
  CHECK(stage_of_op(fused_stages(*program)) == std::vector<std::size_t>{0, 1, 2, 2, 3, 4, 5, 6, 7});
}

TEST_CASE("fusion: a result that is only added to something is added where it is made") {
  ProgramBuilder builder({});
  const WeightId table = builder.weight(matrix("table", 8, 8));
  const WeightId square = builder.weight(matrix("square", 8, 8));
  const ValueId x = builder.embedding(table, 1.0f);
  const ValueId h = builder.scale(x, 2.0f);
  const ValueId sum = builder.add(x, builder.linear(h, square, {}), 0.5f);
  const ValueId itself = builder.add(sum, builder.linear(sum, square, {}), 1.0f);  // sum's place
  const ValueId used = builder.linear(itself, square, {});
  const ValueId twice = builder.add(h, used, 1.0f);  // `used` is read again
  const ValueId scaled = builder.linear(twice, square, {});
  const ValueId first = builder.add(scaled, used, 1.0f);  // the scale is the other's
  const auto program = builder.finish(builder.select_rows(first));
  using enum Fusion;
  CHECK(fusions(*program) ==
        std::vector{None, None, LinearAdd, None, None, None, None, None, None, None});
}

TEST_CASE("fusion: gate, up and activation are one stage where one kernel can make them") {
  ProgramBuilder builder({});
  const WeightId table = builder.weight(matrix("table", 8, 32));
  const WeightId gate = builder.weight(matrix("gate", 8, 32, DType::Q4_0));
  const WeightId up = builder.weight(matrix("up", 8, 32, DType::Q4_0));
  const WeightId other = builder.weight(matrix("other", 8, 32, DType::Q8_0));
  const WeightId bias = builder.weight(matrix("bias", 1, 8));
  const ValueId x = builder.embedding(table, 1.0f);
  const ValueId y = builder.scale(x, 2.0f);
  const auto linear = [&](ValueId input, WeightId weight, std::optional<WeightId> with = {}) {
    return builder.linear(input, weight, with);
  };
  // In two steps each: arguments of a call are made in any order.
  ValueId g = linear(x, gate), u = linear(x, up);
  ValueId last = builder.silu_mul(g, u);
  g = linear(x, gate), u = linear(x, up);
  last = builder.add(last, builder.gelu_mul(g, u), 1.0f);
  g = linear(x, gate), u = linear(x, other);  // types differ
  last = builder.add(last, builder.silu_mul(g, u), 1.0f);
  g = linear(x, gate), u = linear(y, up);  // inputs differ
  last = builder.add(last, builder.silu_mul(g, u), 1.0f);
  g = linear(x, gate), u = linear(x, up, bias);
  last = builder.add(last, builder.silu_mul(g, u), 1.0f);
  g = linear(x, gate), u = linear(x, up);
  last = builder.add(last, builder.silu_mul(u, g), 1.0f);  // the other way around
  g = linear(x, gate), u = linear(x, up);
  last = builder.add(last, builder.silu_mul(g, u), 1.0f);
  last = builder.add(last, u, 1.0f);  // wanted once more
  const auto program = builder.finish(builder.select_rows(last));
  std::vector<Fusion> expected{Fusion::None, Fusion::None, Fusion::LinearGated, Fusion::LinearGated,
                               Fusion::None};
  expected.resize(expected.size() + 5 * 4 + 2, Fusion::None);
  CHECK(fusions(*program) == expected);
}

}  // namespace
}  // namespace quarrel::metal
