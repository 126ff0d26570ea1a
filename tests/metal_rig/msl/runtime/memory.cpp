// Guarded memory: a kernel that runs past a buffer faults, or leaves a mark.
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <map>
#include <mutex>
#include <sstream>
#include <string>

#include "scheduler.h"

namespace msl {
namespace {

constexpr size_t kAlignment = 16;         // of the widest vector type
constexpr unsigned char kPattern = 0xF5;  // as a float a huge negative number

struct Region {
  char* map;  // page nobody may touch, body, page nobody may touch
  size_t map_bytes;
  size_t body_bytes;
  char* memory;
  size_t n_bytes;
};

struct Regions {
  std::mutex mutex;
  std::map<const void*, Region> by_memory;
};
Regions& regions() {
  static auto* all = new Regions;  // never destroyed: threads may outlive main()
  return *all;
}

size_t page_bytes() {
  static const auto n = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  return n;
}

bool has_pattern(const char* begin, const char* end) {
  for (; begin < end; ++begin) {
    if (static_cast<unsigned char>(*begin) != kPattern) return false;
  }
  return true;
}

}  // namespace

std::string describe_address(const void* address) {
  std::lock_guard lock(regions().mutex);
  const auto* at = static_cast<const char*>(address);
  std::ostringstream out;
  for (const auto& [memory, region] : regions().by_memory) {
    if (at < region.map || at >= region.map + region.map_bytes) continue;
    const long offset = at - region.memory;
    if (at >= region.memory && at < region.memory + region.n_bytes) {
      out << "byte " << offset << " of a read-only buffer of " << region.n_bytes << " bytes";
    } else if (offset < 0) {
      out << -offset << " bytes before a buffer of " << region.n_bytes << " bytes";
    } else {
      out << "byte " << offset << " of a buffer of " << region.n_bytes << " bytes";
    }
    return out.str();
  }
  out << "address " << address << " belongs to no buffer";
  if (reinterpret_cast<uintptr_t>(address) < page_bytes()) out << " (is the argument bound?)";
  return out.str();
}

}  // namespace msl

extern "C" {

void* msl_guarded_alloc(size_t n_bytes) {
  using namespace msl;
  const size_t page = page_bytes();
  Region region{};
  region.n_bytes = n_bytes;
  const size_t aligned = (n_bytes + kAlignment - 1) / kAlignment * kAlignment;
  region.body_bytes = std::max((aligned + page - 1) / page, size_t{1}) * page;
  region.map_bytes = region.body_bytes + 2 * page;
  void* map = mmap(nullptr, region.map_bytes, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (map == MAP_FAILED) return nullptr;
  region.map = static_cast<char*>(map);
  char* end = region.map + page + region.body_bytes;
  mprotect(region.map, page, PROT_NONE);
  mprotect(end, page, PROT_NONE);
  region.memory = end - aligned;
  memset(region.map + page, kPattern, static_cast<size_t>(region.memory - region.map) - page);
  memset(region.memory + n_bytes, kPattern, static_cast<size_t>(end - region.memory) - n_bytes);
  std::lock_guard lock(regions().mutex);
  regions().by_memory[region.memory] = region;
  return region.memory;
}

void msl_guarded_free(void* memory) {
  std::lock_guard lock(msl::regions().mutex);
  const auto found = msl::regions().by_memory.find(memory);
  if (found == msl::regions().by_memory.end()) return;
  munmap(found->second.map, found->second.map_bytes);
  msl::regions().by_memory.erase(found);
}

void msl_guarded_protect(void* memory, bool read_only) {
  std::lock_guard lock(msl::regions().mutex);
  const msl::Region& region = msl::regions().by_memory.at(memory);
  mprotect(region.map + msl::page_bytes(), region.body_bytes,
           read_only ? PROT_READ : PROT_READ | PROT_WRITE);
}

bool msl_guarded_intact(void* memory) {
  std::lock_guard lock(msl::regions().mutex);
  const msl::Region& region = msl::regions().by_memory.at(memory);
  const char* begin = region.map + msl::page_bytes();
  return msl::has_pattern(begin, region.memory) &&
         msl::has_pattern(region.memory + region.n_bytes, begin + region.body_bytes);
}

}  // extern "C"
