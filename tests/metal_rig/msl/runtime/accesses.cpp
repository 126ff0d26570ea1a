// Access checks: which threadgroup last read and wrote each 4 bytes of the watched buffers.
//
// Libraries compiled with clang's -fsanitize=thread call a function for every memory access; the
// ones below take the place of that sanitizer's own runtime. The "agent" is a threadgroup of one
// dispatch, numbered through; two accesses are ordered if the same agent made them, or if a
// barrier came between. Order inside a threadgroup is not looked at here (lane orders show it).
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <memory>
#include <mutex>
#include <string>

#include "scheduler.h"

namespace msl {
namespace {

constexpr size_t kGranule = 4;

struct Shadow {  // starts as zeros: nobody
  uint32_t writer;
  uint32_t readers[2];  // the two last different ones
};
// Allocated by calloc: of a large buffer only the part that is used takes memory.
struct Free {
  void operator()(Shadow* shadows) const { free(shadows); }
};

struct Watched {
  const char* begin;
  size_t n_bytes;
  uint32_t first_after_barrier;
  std::unique_ptr<Shadow[], Free> shadows;
};

struct Checker {
  std::mutex mutex;
  std::map<const char*, Watched> watched;  // by begin
  uint32_t agent = 0;
  uint32_t first_of_dispatch = 1;
  uint32_t position[3] = {0, 0, 0};
  std::string hazard;
};
Checker& checker() {
  static auto* only = new Checker;  // never destroyed: threads may outlive main()
  return *only;
}

void report(Checker* c, const Watched& buffer, size_t offset, uint32_t other, const char* kind) {
  if (!c->hazard.empty()) return;
  char text[256];
  snprintf(text, sizeof text,
           "hazard: threadgroup (%u, %u, %u) %s byte %zu of a buffer of %zu bytes %s",
           c->position[0], c->position[1], c->position[2], kind, offset, buffer.n_bytes,
           other >= c->first_of_dispatch ? "of another threadgroup of the same dispatch"
                                         : "of an earlier dispatch, with no barrier between them");
  c->hazard = text;
}

void access(const void* address, size_t n_bytes, bool writes) {
  Checker& c = checker();
  const auto* at = static_cast<const char*>(address);
  std::lock_guard lock(c.mutex);
  auto after = c.watched.upper_bound(at);
  if (after == c.watched.begin()) return;
  Watched& buffer = std::prev(after)->second;
  if (at >= buffer.begin + buffer.n_bytes) return;
  const auto begin = static_cast<size_t>(at - buffer.begin);
  const size_t end = std::min(begin + n_bytes, buffer.n_bytes);
  const auto unordered = [&](uint32_t other) {
    return other != c.agent && other >= buffer.first_after_barrier;
  };
  for (size_t granule = begin / kGranule; granule * kGranule < end; ++granule) {
    Shadow& shadow = buffer.shadows[granule];
    if (unordered(shadow.writer)) {
      report(&c, buffer, begin, shadow.writer, writes ? "overwrote" : "read what was written to");
    }
    if (writes) {
      for (uint32_t reader : shadow.readers) {
        if (unordered(reader)) report(&c, buffer, begin, reader, "wrote what was read from");
      }
      shadow.writer = c.agent;
    } else if (shadow.readers[0] != c.agent) {
      shadow.readers[1] = shadow.readers[0];
      shadow.readers[0] = c.agent;
    }
  }
}

}  // namespace

void begin_dispatch() {
  Checker& c = checker();
  std::lock_guard lock(c.mutex);
  c.first_of_dispatch = c.agent + 1;
  c.hazard.clear();
}

void begin_threadgroup(const uint32_t position[3]) {
  Checker& c = checker();
  if (c.watched.empty()) return;
  std::lock_guard lock(c.mutex);
  ++c.agent;
  std::copy(position, position + 3, c.position);
}

bool take_hazard(std::string* message) {
  Checker& c = checker();
  std::lock_guard lock(c.mutex);
  if (c.hazard.empty()) return false;
  *message = c.hazard;
  return true;
}

}  // namespace msl

extern "C" {

void msl_watch(const void* address, size_t n_bytes) {
  msl::Checker& c = msl::checker();
  std::lock_guard lock(c.mutex);
  const auto* begin = static_cast<const char*>(address);
  const size_t n_granules = (n_bytes + msl::kGranule - 1) / msl::kGranule;
  auto* shadows = static_cast<msl::Shadow*>(calloc(n_granules, sizeof(msl::Shadow)));
  c.watched[begin] = msl::Watched{begin, n_bytes, c.agent + 1, {shadows, msl::Free{}}};
}

void msl_unwatch(const void* address) {
  msl::Checker& c = msl::checker();
  std::lock_guard lock(c.mutex);
  c.watched.erase(static_cast<const char*>(address));
}

void msl_barrier(const void* address) {
  msl::Checker& c = msl::checker();
  std::lock_guard lock(c.mutex);
  for (auto& [begin, buffer] : c.watched) {
    if (!address || address == begin) buffer.first_after_barrier = c.agent + 1;
  }
}

// What the instrumented code calls.
#define MSL_ACCESS(n)                                                                       \
  void __tsan_read##n(void* p) { msl::access(p, n, false); }                                \
  void __tsan_write##n(void* p) { msl::access(p, n, true); }                                \
  void __tsan_unaligned_read##n(void* p) { msl::access(p, n, false); }                      \
  void __tsan_unaligned_write##n(void* p) { msl::access(p, n, true); }                      \
  void __tsan_read_write##n(void* p) { msl::access(p, n, false), msl::access(p, n, true); } \
  void __tsan_unaligned_read_write##n(void* p) { __tsan_read_write##n(p); }
MSL_ACCESS(1)
MSL_ACCESS(2)
MSL_ACCESS(4)
MSL_ACCESS(8)
MSL_ACCESS(16)
#undef MSL_ACCESS
void __tsan_read_range(void* p, size_t n) { msl::access(p, n, false); }
void __tsan_write_range(void* p, size_t n) { msl::access(p, n, true); }
void __tsan_func_entry(void*) {}
void __tsan_func_exit() {}
void __tsan_init() {}
void __tsan_vptr_read(void**) {}
void __tsan_vptr_update(void**, void*) {}
void* __tsan_memcpy(void* to, const void* from, size_t n) {
  msl::access(from, n, false);
  msl::access(to, n, true);
  return __builtin_memcpy(to, from, n);
}
void* __tsan_memmove(void* to, const void* from, size_t n) {
  msl::access(from, n, false);
  msl::access(to, n, true);
  return __builtin_memmove(to, from, n);
}
void* __tsan_memset(void* to, int value, size_t n) {
  msl::access(to, n, true);
  return __builtin_memset(to, value, n);
}

}  // extern "C"
