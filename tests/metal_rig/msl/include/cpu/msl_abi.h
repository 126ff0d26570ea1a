// What a compiled kernel and the fiber runtime know of each other. Included by both: no headers.
#pragma once

// One threadgroup in flight. Triples are x, y, z.
struct __msl_group {
  void* const* buffers;
  void* const* threadgroup_memory;
  unsigned position[3];          // threadgroup_position_in_grid
  unsigned threads[3];           // threads_per_threadgroup: smaller at a ragged edge of the grid
  unsigned dispatch_threads[3];  // dispatch_threads_per_threadgroup: as asked for
  unsigned grid_threads[3];      // threads_per_grid
  unsigned grid_groups[3];       // threadgroups_per_grid
  unsigned n_simdgroups;
};

// One lane of it.
struct __msl_lane {
  const __msl_group* group;
  unsigned position[3];  // thread_position_in_threadgroup
  unsigned lane;         // thread_index_in_simdgroup
  unsigned simdgroup;    // simdgroup_index_in_threadgroup
  unsigned index;        // thread_index_in_threadgroup
};

typedef void (*__msl_entry)(const __msl_lane*);

// The kernels of a library: the compiler appends this table. The signature has one number for each
// parameter and ends with -1: kind * 256 + index, plus 65536 for a buffer that may be written.
// Kind 0 is a buffer, 1 a threadgroup argument, all others are built-ins (msl_entry.h).
struct __msl_kernel {
  const char* name;
  __msl_entry entry;
  const int* signature;
};

// Answers one cross-lane operation for the lanes of `mask`: slots holds 64 bytes for each lane.
typedef void (*__msl_resolver)(void* slots, unsigned mask);

extern "C" {
// Number of the calling lane in its simdgroup.
unsigned __msl_lane_index();
// The calling lane's 64 bytes.
void* __msl_slot();
// Blocks until every lane of the simdgroup is here; the last one to arrive resolves for all.
__attribute__((convergent)) void __msl_simdgroup_meet(__msl_resolver resolver);
// Blocks until every lane of the threadgroup is here.
__attribute__((convergent)) void __msl_threadgroup_meet();
// A kernel announces a threadgroup variable: counted, and filled with NaNs for each threadgroup.
void __msl_threadgroup_variable(void* address, unsigned long n_bytes);
// Copies function constant `index` (at most n_bytes) and returns true, or returns false.
bool __msl_function_constant(unsigned index, void* value, unsigned n_bytes);
}
