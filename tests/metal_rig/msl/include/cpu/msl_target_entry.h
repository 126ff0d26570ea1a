// CPU target: where the arguments of a kernel come from.
#pragma once
template <bool threadgroup>
inline void* __msl_address(const __msl_lane* lane, int index) {
  return threadgroup ? lane->group->threadgroup_memory[index] : lane->group->buffers[index];
}

template <int kind>
inline void __msl_builtin(const __msl_lane* lane, uint* triple) {
  const __msl_group& group = *lane->group;
  for (int d = 0; d < 3; d++) {
    triple[d] = kind == __msl_kind_thread_position_in_grid
                    ? group.position[d] * group.dispatch_threads[d] + lane->position[d]
                : kind == __msl_kind_threadgroup_position_in_grid     ? group.position[d]
                : kind == __msl_kind_thread_position_in_threadgroup   ? lane->position[d]
                : kind == __msl_kind_threads_per_threadgroup          ? group.threads[d]
                : kind == __msl_kind_dispatch_threads_per_threadgroup ? group.dispatch_threads[d]
                : kind == __msl_kind_threads_per_grid                 ? group.grid_threads[d]
                : kind == __msl_kind_threadgroups_per_grid            ? group.grid_groups[d]
                : kind == __msl_kind_thread_index_in_simdgroup        ? lane->lane
                : kind == __msl_kind_simdgroup_index_in_threadgroup   ? lane->simdgroup
                : kind == __msl_kind_simdgroups_per_threadgroup       ? group.n_simdgroups
                : kind == __msl_kind_threads_per_simdgroup            ? 32
                                                                      : lane->index;
  }
}
