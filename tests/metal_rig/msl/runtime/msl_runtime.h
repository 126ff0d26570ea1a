// C interface of the fiber runtime: loads libraries made by compiler.py and runs their kernels.
#pragma once

#include <cstddef>
#include <cstdint>

#include "../include/cpu/msl_abi.h"

extern "C" {

enum msl_status {
  MSL_OK = 0,
  MSL_INVALID = 1,        // a launch that Metal refuses
  MSL_DIVERGENT = 2,      // a barrier or simdgroup function not reached by all
  MSL_OUT_OF_BOUNDS = 3,  // a guard page was touched, or a read-only buffer written
  MSL_TIMEOUT = 4,
  MSL_TRAP = 5,   // integer division by zero, a trap in the shim
  MSL_HAZARD = 6  // a data race on device memory (libraries compiled with access checks only)
};

struct msl_launch {
  __msl_entry entry;
  void* const* buffers;               // 31 addresses, null where nothing is bound
  uint32_t grid_threads[3];           // threads of the whole grid; the edge groups may be ragged
  uint32_t threads[3];                // of one threadgroup
  const uint32_t* threadgroup_bytes;  // of each threadgroup argument
  uint32_t n_threadgroup_arguments;
  uint32_t n_workers;  // OS threads that run threadgroups
  uint32_t reversed;   // run lanes, simdgroups and threadgroups in descending order
  double timeout_seconds;
};

// Runs one dispatch to its end. Returns an msl_status and, unless MSL_OK, writes one sentence.
int msl_dispatch(const msl_launch* launch, char* message, size_t message_bytes);

// Loads one specialisation of a compiled library: its static initialisers read the constants
// (values[i], sizes[i] bytes, is constant indices[i]). Returns null and writes a message on error.
void* msl_load(const char* path, const uint32_t* indices, const void* const* values,
               const uint32_t* sizes, uint32_t n_constants, char* message, size_t message_bytes);
uint32_t msl_kernel_count(void* library);
const __msl_kernel* msl_kernel_at(void* library, uint32_t i);

// Zeroed memory that ends at a page nobody may touch (up to 15 bytes before it, to be 16-aligned)
// and begins after another; the bytes between carry a pattern. Returns null when out of memory.
void* msl_guarded_alloc(size_t n_bytes);
void msl_guarded_free(void* memory);
// Makes the memory read-only, or writable again.
void msl_guarded_protect(void* memory, bool read_only);
// True while the pattern around the memory is whole.
bool msl_guarded_intact(void* memory);

// Access checks. A library compiled with them reports every device access of its kernels; two
// accesses of the same bytes, one of them a write, must then be ordered: by the end of a dispatch
// followed by a barrier, or by being made in the same threadgroup.
// Watches n_bytes from address (guarded memory is not watched by itself); or stops doing so.
void msl_watch(const void* address, size_t n_bytes);
void msl_unwatch(const void* address);
// What was dispatched before is finished for what is dispatched after: as far as the watched memory
// at this address is concerned, or all of it if address is null.
void msl_barrier(const void* address);
}
