#include "failing_new.h"

#include <cstdlib>
#include <new>

namespace quarrel::testing {
namespace {

thread_local std::size_t fails_in = 0;
thread_local bool failed = false;

}  // namespace

void fail_allocation(std::size_t n) {
  fails_in = n;
  failed = false;
}

bool allocation_failed() { return failed; }

namespace {

void* allocate(std::size_t n) {
  if (fails_in > 0 && --fails_in == 0) {
    failed = true;
    throw std::bad_alloc();
  }
  void* memory = std::malloc(n > 0 ? n : 1);
  if (memory == nullptr) throw std::bad_alloc();
  return memory;
}

}  // namespace
}  // namespace quarrel::testing

void* operator new(std::size_t n) { return quarrel::testing::allocate(n); }
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }
// Sanitizers bring their own for each form: freed by ours, what one of those allocated is an error.
void* operator new(std::size_t n, const std::nothrow_t&) noexcept {
  try {
    return quarrel::testing::allocate(n);
  } catch (const std::bad_alloc&) {
    return nullptr;
  }
}
void operator delete(void* memory, const std::nothrow_t&) noexcept { std::free(memory); }
