// Calls a kernel with arguments taken from where its attributes say. C++ deduces the parameter
// types from the function pointer; the compiler records one slot per parameter, kind * 256 + index.
#pragma once
// The order is that of the rewriter's SLOT_KINDS.
enum __msl_slot_kind {
  __msl_kind_buffer,
  __msl_kind_threadgroup,
  __msl_kind_thread_position_in_grid,
  __msl_kind_threadgroup_position_in_grid,
  __msl_kind_thread_position_in_threadgroup,
  __msl_kind_threads_per_threadgroup,
  __msl_kind_dispatch_threads_per_threadgroup,
  __msl_kind_threads_per_grid,
  __msl_kind_threadgroups_per_grid,
  __msl_kind_thread_index_in_simdgroup,
  __msl_kind_simdgroup_index_in_threadgroup,
  __msl_kind_simdgroups_per_threadgroup,
  __msl_kind_threads_per_simdgroup,
  __msl_kind_thread_index_in_threadgroup
};

// A built-in as the scalar or vector that the kernel declares.
template <class P>
struct __msl_from_triple {
  static P get(const uint* triple) { return (P)triple[0]; }
};
template <class T, int N>
struct __msl_from_triple<metal::vec<T, N>> {
  static metal::vec<T, N> get(const uint* triple) {
    metal::vec<T, N> r{};
    for (int i = 0; i < N; i++) r.__s[i] = (T)triple[i];
    return r;
  }
};

template <class P, int Slot>
struct __msl_argument {
  static METAL_FUNC P get(const __msl_lane* lane) {
    constexpr int kind = Slot / 256, index = Slot % 256;
    if constexpr (kind <= __msl_kind_threadgroup) {
      return (P)__msl_address < kind == __msl_kind_threadgroup > (lane, index);
    } else {
      uint triple[3];
      __msl_builtin<kind>(lane, triple);
      return __msl_from_triple<metal::remove_cv_t<P>>::get(triple);
    }
  }
};
template <class P, int Slot>
struct __msl_argument<P&, Slot> {
  static METAL_FUNC P& get(const __msl_lane* lane) {
    return *(P*)__msl_address < Slot / 256 == __msl_kind_threadgroup > (lane, Slot % 256);
  }
};

template <int... Slots>
struct __msl_call {
  template <class... P>
  static METAL_FUNC void run(void (*kernel)(P...), const __msl_lane* lane) {
    static_assert(sizeof...(P) == sizeof...(Slots),
                  "the rewriter misread this kernel's parameters");
    [[clang::always_inline]] kernel(__msl_argument<P, Slots>::get(lane)...);
  }
};
#include "msl_target_entry.h"
