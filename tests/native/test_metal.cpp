#include <doctest/doctest.h>

#include <array>
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

Weight row_of(const std::string& name, std::size_t n) {
  auto bytes = std::make_shared<std::vector<std::byte>>(n * sizeof(float));
  const std::span<const std::byte> data(*bytes);
  return {name, DType::F32, 1, n, data, std::move(bytes)};
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
  CHECK(fused_stages(*program) == std::vector<std::size_t>{0, 1, 2, 2, 3, 4, 5, 6, 7});
}

}  // namespace
}  // namespace quarrel::metal
