// NVPTX target: where the arguments of a kernel come from.
#pragma once
template <bool threadgroup>
METAL_FUNC void* __msl_address(const __msl_lane* lane, int index) {
  return threadgroup ? lane->threadgroup_memory[index] : lane->buffers[index];
}

#define _MSL_TRIPLE(name)                                                            \
  {(uint)__nvvm_read_ptx_sreg_##name##_x(), (uint)__nvvm_read_ptx_sreg_##name##_y(), \
   (uint)__nvvm_read_ptx_sreg_##name##_z()}

// A launch has whole threadgroups of a multiple of 32 threads.
template <int kind>
METAL_FUNC void __msl_builtin(const __msl_lane*, uint* triple) {
  const uint position[3] = _MSL_TRIPLE(tid), group[3] = _MSL_TRIPLE(ctaid);
  const uint threads[3] = _MSL_TRIPLE(ntid), groups[3] = _MSL_TRIPLE(nctaid);
  const uint index = position[0] + threads[0] * (position[1] + threads[1] * position[2]);
  const uint n_threads = threads[0] * threads[1] * threads[2];
  for (int d = 0; d < 3; d++) {
    triple[d] = kind == __msl_kind_thread_position_in_grid ? group[d] * threads[d] + position[d]
                : kind == __msl_kind_threadgroup_position_in_grid     ? group[d]
                : kind == __msl_kind_thread_position_in_threadgroup   ? position[d]
                : kind == __msl_kind_threads_per_threadgroup          ? threads[d]
                : kind == __msl_kind_dispatch_threads_per_threadgroup ? threads[d]
                : kind == __msl_kind_threads_per_grid                 ? groups[d] * threads[d]
                : kind == __msl_kind_threadgroups_per_grid            ? groups[d]
                : kind == __msl_kind_thread_index_in_simdgroup        ? index % 32
                : kind == __msl_kind_simdgroup_index_in_threadgroup   ? index / 32
                : kind == __msl_kind_simdgroups_per_threadgroup       ? (n_threads + 31) / 32
                : kind == __msl_kind_threads_per_simdgroup            ? 32
                                                                      : index;
  }
}
