// CPU target: cross-lane functions. Each lane writes its operand into its slot and waits; the last
// one to arrive computes the result of every lane, so an operation costs one rendezvous.
#pragma once
// Always inlined, so that a rendezvous is known by the place in the kernel that asked for it.
#define _MSL_CROSS_LANE __attribute__((always_inline, convergent)) inline

namespace metal {
template <class T>
struct __exchange {  // one lane's slot: 64 bytes
  T operand;
  uint argument;
  T result;
};

// Runs `resolve(slots, mask)` once for the simdgroup and returns this lane's result.
template <class T, class F>
_MSL_CROSS_LANE T __exchange_all(T operand, uint argument, F) {
  static_assert(!__is_bfloat<T>, "Metal's simdgroup functions take no bfloat");
  static_assert(sizeof(T) <= 16 && sizeof(__exchange<T>) <= 64, "type too wide to exchange");
  __exchange<T>* slot = (__exchange<T>*)__msl_slot();
  slot->operand = operand;
  slot->argument = argument;
  __msl_simdgroup_meet([](void* slots, uint mask) { F::resolve(slots, mask); });
  return slot->result;
}
template <class T>
inline __exchange<T>& __slot_of(void* slots, uint lane) {
  return *(__exchange<T>*)((char*)slots + 64 * lane);
}
#define _MSL_EACH_LANE(lane)             \
  for (uint lane = 0; lane < 32; lane++) \
    if (mask >> lane & 1)

#define _MSL_REDUCTION(name, ...)                                \
  template <class T>                                             \
  struct __resolve_##name {                                      \
    static void resolve(void* slots, uint mask) {                \
      uint first = __builtin_ctz(mask);                          \
      T a = __slot_of<T>(slots, first).operand;                  \
      for (uint lane = first + 1; lane < 32; lane++)             \
        if (mask >> lane & 1) {                                  \
          const T b = __slot_of<T>(slots, lane).operand;         \
          a = (T)(__VA_ARGS__);                                  \
        }                                                        \
      _MSL_EACH_LANE(lane) __slot_of<T>(slots, lane).result = a; \
    }                                                            \
  };                                                             \
  template <class T>                                             \
  _MSL_CROSS_LANE T name(T x) {                                  \
    return __exchange_all(x, 0, __resolve_##name<T>{});          \
  }
_MSL_REDUCTION(simd_sum, a + b)
_MSL_REDUCTION(simd_product, a* b)
_MSL_REDUCTION(simd_max, max(a, b))
_MSL_REDUCTION(simd_min, min(a, b))
_MSL_REDUCTION(simd_and, a& b)
_MSL_REDUCTION(simd_or, a | b)
_MSL_REDUCTION(simd_xor, a ^ b)

// A source lane that does not take part gives garbage on a GPU; here all ones, a NaN.
#define _MSL_SHUFFLE(name, ...)                                   \
  template <class T>                                              \
  struct __resolve_##name {                                       \
    static void resolve(void* slots, uint mask) {                 \
      _MSL_EACH_LANE(lane) {                                      \
        const uint argument = __slot_of<T>(slots, lane).argument; \
        const uint source = (uint)(__VA_ARGS__);                  \
        __exchange<T>& slot = __slot_of<T>(slots, lane);          \
        if (source < 32 && (mask >> source & 1))                  \
          slot.result = __slot_of<T>(slots, source).operand;      \
        else                                                      \
          __builtin_memset(&slot.result, 0xFF, sizeof(T));        \
      }                                                           \
    }                                                             \
  };                                                              \
  template <class T>                                              \
  _MSL_CROSS_LANE T name(T x, ushort argument) {                  \
    return __exchange_all(x, argument, __resolve_##name<T>{});    \
  }
_MSL_SHUFFLE(simd_shuffle, argument)
_MSL_SHUFFLE(simd_broadcast, argument)
_MSL_SHUFFLE(simd_shuffle_xor, lane ^ argument)
_MSL_SHUFFLE(simd_shuffle_up, lane - argument)
_MSL_SHUFFLE(simd_shuffle_down, lane + argument)
_MSL_SHUFFLE(simd_shuffle_rotate_up, (lane - argument) & 31)
_MSL_SHUFFLE(simd_shuffle_rotate_down, (lane + argument) & 31)
_MSL_SHUFFLE(quad_shuffle, (lane & ~3u) | (argument & 3))
_MSL_SHUFFLE(quad_broadcast, (lane & ~3u) | (argument & 3))
_MSL_SHUFFLE(quad_shuffle_xor, lane ^ (argument & 3))
template <class T>
_MSL_CROSS_LANE T simd_shuffle_and_fill_up(T x, T fill, ushort delta) {
  const T shifted = simd_shuffle_up(x, delta);
  return __msl_lane_index() >= delta ? shifted : fill;
}
template <class T>
_MSL_CROSS_LANE T simd_shuffle_and_fill_down(T x, T fill, ushort delta) {
  const T shifted = simd_shuffle_down(x, delta);
  return __msl_lane_index() + delta < 32 ? shifted : fill;
}
template <class T>
_MSL_CROSS_LANE T simd_broadcast_first(T x) {
  return simd_broadcast(x, 0);
}

template <class T>
struct __resolve_prefix_sum {
  static void resolve(void* slots, uint mask) {
    T sum = T(0);
    _MSL_EACH_LANE(lane) {
      sum = (T)(sum + __slot_of<T>(slots, lane).operand);
      __slot_of<T>(slots, lane).result = sum;
    }
  }
};
template <class T>
_MSL_CROSS_LANE T simd_prefix_inclusive_sum(T x) {
  return __exchange_all(x, 0, __resolve_prefix_sum<T>{});
}
template <class T>
_MSL_CROSS_LANE T simd_prefix_exclusive_sum(T x) {
  return simd_shuffle_and_fill_up(simd_prefix_inclusive_sum(x), T(0), 1);
}

struct __resolve_ballot {
  static void resolve(void* slots, uint mask) {
    uint ballot = 0;
    _MSL_EACH_LANE(lane) if (__slot_of<uint>(slots, lane).operand) ballot |= 1u << lane;
    _MSL_EACH_LANE(lane) __slot_of<uint>(slots, lane).result = ballot;
  }
};
_MSL_CROSS_LANE simd_vote simd_ballot(bool x) {
  return simd_vote(__exchange_all((uint)x, 0, __resolve_ballot{}));
}
_MSL_CROSS_LANE bool simd_any(bool x) { return simd_or((uint)x) != 0; }
_MSL_CROSS_LANE bool simd_all(bool x) { return simd_and((uint)x) != 0; }
_MSL_CROSS_LANE bool simd_is_first() { return __msl_lane_index() == 0; }

_MSL_CROSS_LANE void threadgroup_barrier(mem_flags) { __msl_threadgroup_meet(); }
_MSL_CROSS_LANE void simdgroup_barrier(mem_flags) {
  __msl_simdgroup_meet([](void*, uint) {});
}

// Apple's layout of an 8x8 matrix, so that code using thread_elements() works.
inline void __msl_matrix_place(uint lane, uint& row, uint& column) {
  const uint quad = lane / 4;
  row = (quad & 4) + lane / 2 % 4;
  column = (quad & 2) * 2 + lane % 2 * 2;
}
struct __matrix_operands {
  vec<float, 2> a, b, c;  // c is also the result
};
struct __resolve_multiply {
  static void resolve(void* slots, uint mask) {
    if (mask != ~0u) __builtin_trap();  // a matrix needs all 32 lanes
    float a[8][8], b[8][8], d[8][8];
    for (uint lane = 0; lane < 32; lane++) {
      uint m, n;
      __msl_matrix_place(lane, m, n);
      const __matrix_operands& q = *__slot_of<__matrix_operands*>(slots, lane).operand;
      for (uint e = 0; e < 2; e++) {
        a[m][n + e] = q.a.__s[e], b[m][n + e] = q.b.__s[e], d[m][n + e] = q.c.__s[e];
      }
    }
    for (int i = 0; i < 8; i++)
      for (int k = 0; k < 8; k++)
        for (int j = 0; j < 8; j++) d[i][j] += a[i][k] * b[k][j];
    for (uint lane = 0; lane < 32; lane++) {
      uint m, n;
      __msl_matrix_place(lane, m, n);
      __slot_of<__matrix_operands*>(slots, lane).operand->c = vec<float, 2>(d[m][n], d[m][n + 1]);
    }
  }
};
template <class TA, class TB>
_MSL_CROSS_LANE vec<float, 2> __msl_matrix_multiply(vec<TA, 2> a, vec<TB, 2> b, vec<float, 2> c) {
  __matrix_operands operands{vec<float, 2>((float)a.__s[0], (float)a.__s[1]),
                             vec<float, 2>((float)b.__s[0], (float)b.__s[1]), c};
  __exchange_all(&operands, 0, __resolve_multiply{});
  return operands.c;
}
}  // namespace metal
