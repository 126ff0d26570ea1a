// Philox4x32-10, a counter-based random number generator: a pure function of key and counter, so
// the number for "seed s, token position p" is the same however often and whenever it is asked for.
// Source: Salmon, Moraes, Dror, Shaw, "Parallel Random Numbers: As Easy as 1, 2, 3", SC 2011.
#pragma once

#include <array>
#include <cstdint>

namespace quarrel {

using PhiloxCounter = std::array<std::uint32_t, 4>;
using PhiloxKey = std::array<std::uint32_t, 2>;

// Ten rounds of Philox with four 32-bit words: 128 random bits for this counter under this key.
constexpr PhiloxCounter philox4x32_10(PhiloxCounter counter, PhiloxKey key) {
  constexpr std::uint64_t kMultiplier0 = 0xD2511F53, kMultiplier1 = 0xCD9E8D57;
  constexpr std::uint32_t kWeyl0 = 0x9E3779B9, kWeyl1 = 0xBB67AE85;
  for (int round = 0; round < 10; ++round) {
    const std::uint64_t product0 = kMultiplier0 * counter[0];
    const std::uint64_t product1 = kMultiplier1 * counter[2];
    counter = {static_cast<std::uint32_t>(product1 >> 32) ^ counter[1] ^ key[0],
               static_cast<std::uint32_t>(product1),
               static_cast<std::uint32_t>(product0 >> 32) ^ counter[3] ^ key[1],
               static_cast<std::uint32_t>(product0)};
    key[0] += kWeyl0;
    key[1] += kWeyl1;
  }
  return counter;
}

// A double in [0, 1) with 53 random bits for one token position of one request. `stream` tells the
// parallel choices of a request (n > 1) apart.
constexpr double uniform_at(std::uint64_t seed, std::uint64_t position, std::uint32_t stream) {
  const PhiloxKey key{static_cast<std::uint32_t>(seed), static_cast<std::uint32_t>(seed >> 32)};
  const PhiloxCounter counter{static_cast<std::uint32_t>(position),
                              static_cast<std::uint32_t>(position >> 32), 0, stream};
  const PhiloxCounter bits = philox4x32_10(counter, key);
  const std::uint64_t mantissa =
      (static_cast<std::uint64_t>(bits[0] >> 5) << 26) | static_cast<std::uint64_t>(bits[1] >> 6);
  return static_cast<double>(mantissa) * 0x1p-53;
}

}  // namespace quarrel
