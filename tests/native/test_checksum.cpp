// XXH64 against the vectors of its specification and of the reference implementation.
#include <doctest/doctest.h>

#include <cstdint>
#include <string_view>
#include <vector>

#include "core/checksum.h"

namespace quarrel {
namespace {

std::uint64_t sum(std::string_view text, std::uint64_t seed = 0) {
  return xxh64(std::as_bytes(std::span(text)), seed);
}

// The bytes that the reference implementation tests itself with.
std::vector<std::byte> sanity_bytes(std::size_t n) {
  std::vector<std::byte> bytes(n);
  std::uint64_t state = 2654435761u;
  for (auto& byte : bytes) {
    byte = static_cast<std::byte>(state >> 56);
    state *= 11400714785074694797u;
  }
  return bytes;
}

}  // namespace

TEST_CASE("xxh64: known answers") {
  CHECK(sum("") == 0xef46db3751d8e999u);
  CHECK(sum("a") == 0xd24ec4f1a98c6e5bu);
  CHECK(sum("abc") == 0x44bc2cf5ad770999u);
  CHECK(sum("Nobody inspects the spammish repetition") == 0xfbcea83c8a378bf1u);
  constexpr std::uint64_t kSeed = 2654435761u;
  CHECK(xxh64(sanity_bytes(1)) == 0xe934a84adb052768u);
  CHECK(xxh64(sanity_bytes(1), kSeed) == 0x5014607643a9b4c3u);
  CHECK(xxh64(sanity_bytes(222)) == 0xb641ae8cb691c174u);
  CHECK(xxh64(sanity_bytes(222), kSeed) == 0x20cb8ab7ae10c14au);
}

TEST_CASE("xxh64: every flipped bit of every length shows") {
  for (std::size_t n : {1u, 3u, 4u, 7u, 8u, 31u, 32u, 33u, 63u, 100u}) {
    auto bytes = sanity_bytes(n);
    const std::uint64_t whole = xxh64(bytes);
    CHECK(xxh64(std::span(bytes).first(n - 1)) != whole);
    for (std::size_t bit = 0; bit < 8 * n; ++bit) {
      bytes[bit / 8] ^= std::byte{1} << bit % 8;
      CHECK(xxh64(bytes) != whole);
      bytes[bit / 8] ^= std::byte{1} << bit % 8;
    }
  }
}

}  // namespace quarrel
