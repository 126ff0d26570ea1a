// Lets an allocation of this thread fail: operator new is replaced in the test binary.
#pragma once

#include <cstddef>

namespace quarrel::testing {

// The n-th allocation of this thread from now on throws std::bad_alloc; 0: none.
void fail_allocation(std::size_t n);
// Whether it has been reached since.
bool allocation_failed();

}  // namespace quarrel::testing
