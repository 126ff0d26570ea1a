// What tests may ask of the software Metal beyond Apple's API. Plain C: also for ctypes.
#pragma once
#include <stddef.h>
#ifdef __cplusplus
extern "C" {
#endif

// Back to the defaults: forward, 2 workers, 60 s, no access checks, 1024 threads, abort on
// violations, nothing injected, no violations. Not while command buffers are in flight.
void rig_reset(void);

// Lanes, simdgroups, threadgroups, and the dispatches between two barriers of a concurrent encoder
// run in descending order.
void rig_set_reversed(int reversed);
void rig_set_workers(unsigned n);
// A dispatch that takes longer fails with MTLCommandBufferErrorTimeout.
void rig_set_timeout_seconds(double seconds);
// Buffers and libraries made from here on report data races (see msl_runtime.h).
void rig_set_access_checks(int on);
// What pipelines made from here on say: real ones depend on the registers a kernel needs.
void rig_set_max_threads_per_threadgroup(unsigned n);
void rig_set_recommended_working_set(size_t n_bytes);

// Broken rules of the API. Apple's validation layer ends the process; so does the rig, unless told
// to go on and keep a list.
void rig_set_abort_on_violation(int abort_on_violation);
unsigned rig_violation_count(void);
// The i-th one; valid until rig_reset().
const char* rig_violation(unsigned i);

enum rig_fault {
  RIG_FAULT_ALLOCATION = 0,  // newBuffer... returns nil
  RIG_FAULT_COMPILE = 1,     // newLibraryWithSource: fails with MTLLibraryErrorCompileFailure
  RIG_FAULT_PIPELINE = 2,    // newComputePipelineState... fails
  RIG_FAULT_GPU = 3,         // a dispatch fails with MTLCommandBufferErrorPageFault
  RIG_FAULT_TIMEOUT = 4,     // a dispatch fails with MTLCommandBufferErrorTimeout
  RIG_N_FAULTS = 5
};
// The event fails once, after `successes` more that succeed.
void rig_inject(enum rig_fault fault, unsigned successes);

// Objects of this kind that exist.
size_t rig_live_buffers(void);
size_t rig_live_command_buffers(void);
// Dispatches run since rig_reset().
size_t rig_dispatch_count(void);

#ifdef __cplusplus
}
#endif
