#include "core/checksum.h"

#include <array>
#include <bit>

namespace quarrel {
namespace {

constexpr std::uint64_t kPrime1 = 0x9e3779b185ebca87u;
constexpr std::uint64_t kPrime2 = 0xc2b2ae3d27d4eb4fu;
constexpr std::uint64_t kPrime3 = 0x165667b19e3779f9u;
constexpr std::uint64_t kPrime4 = 0x85ebca77c2b2ae63u;
constexpr std::uint64_t kPrime5 = 0x27d4eb2f165667c5u;
constexpr std::size_t kStripe = 32;  // four lanes of eight bytes

// Compilers make one load of it on little-endian machines.
template <std::size_t kBytes>
std::uint64_t little_endian(const std::byte* at) {
  std::uint64_t value = 0;
  for (std::size_t i = 0; i < kBytes; ++i) value |= std::to_integer<std::uint64_t>(at[i]) << 8 * i;
  return value;
}

std::uint64_t round(std::uint64_t lane, std::uint64_t input) {
  return std::rotl(lane + input * kPrime2, 31) * kPrime1;
}

std::uint64_t consume_stripes(std::span<const std::byte> bytes, std::uint64_t seed) {
  std::array<std::uint64_t, 4> lanes{seed + kPrime1 + kPrime2, seed + kPrime2, seed,
                                     seed - kPrime1};
  for (; bytes.size() >= kStripe; bytes = bytes.subspan(kStripe))
    for (std::size_t i = 0; i < 4; ++i)
      lanes[i] = round(lanes[i], little_endian<8>(bytes.data() + 8 * i));
  std::uint64_t hash = std::rotl(lanes[0], 1) + std::rotl(lanes[1], 7) + std::rotl(lanes[2], 12) +
                       std::rotl(lanes[3], 18);
  for (const std::uint64_t lane : lanes) hash = (hash ^ round(0, lane)) * kPrime1 + kPrime4;
  return hash;
}

std::uint64_t consume_rest(std::uint64_t hash, std::span<const std::byte> rest) {
  for (; rest.size() >= 8; rest = rest.subspan(8))
    hash = std::rotl(hash ^ round(0, little_endian<8>(rest.data())), 27) * kPrime1 + kPrime4;
  if (rest.size() >= 4) {
    hash = std::rotl(hash ^ little_endian<4>(rest.data()) * kPrime1, 23) * kPrime2 + kPrime3;
    rest = rest.subspan(4);
  }
  for (const std::byte byte : rest)
    hash = std::rotl(hash ^ std::to_integer<std::uint64_t>(byte) * kPrime5, 11) * kPrime1;
  return hash;
}

}  // namespace

std::uint64_t xxh64(std::span<const std::byte> bytes, std::uint64_t seed) {
  std::uint64_t hash = bytes.size() >= kStripe ? consume_stripes(bytes, seed) : seed + kPrime5;
  hash = consume_rest(hash + bytes.size(), bytes.subspan(bytes.size() / kStripe * kStripe));
  hash = (hash ^ hash >> 33) * kPrime2;
  hash = (hash ^ hash >> 29) * kPrime3;
  return hash ^ hash >> 32;
}

}  // namespace quarrel
