// XXH64, the 64-bit checksum of Yann Collet's xxHash specification (version 0.1.1): fast, well
// mixed, no protection against malice.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace quarrel {

std::uint64_t xxh64(std::span<const std::byte> bytes, std::uint64_t seed = 0);

}  // namespace quarrel
