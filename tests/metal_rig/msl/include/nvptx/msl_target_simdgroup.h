// NVPTX target: cross-lane functions as warp instructions. Each names all 32 lanes, as the rules
// for shaders demand: uniform flow, no lane has returned.
#pragma once
#define _MSL_CROSS_LANE METAL_FUNC

namespace metal {
// Two halves at a time: the template's loop would become two instructions.
typedef half __half_pair __attribute__((ext_vector_type(2)));
#define _MSL_HALF_PAIR(op)                                                                       \
  METAL_FUNC vec<half, 2> operator op(vec<half, 2> a, vec<half, 2> b) {                          \
    return __builtin_bit_cast(                                                                   \
        vec<half, 2>, __builtin_bit_cast(__half_pair, a) op __builtin_bit_cast(__half_pair, b)); \
  }
_MSL_HALF_PAIR(+)
_MSL_HALF_PAIR(-)
_MSL_HALF_PAIR(*)
METAL_FUNC vec<half, 2> max(vec<half, 2> a, vec<half, 2> b) {
  return __builtin_bit_cast(vec<half, 2>,
                            __builtin_elementwise_max(__builtin_bit_cast(__half_pair, a),
                                                      __builtin_bit_cast(__half_pair, b)));
}
METAL_FUNC vec<half, 2> fma(vec<half, 2> a, vec<half, 2> b, vec<half, 2> c) {
  return __builtin_bit_cast(vec<half, 2>,
                            __builtin_elementwise_fma(__builtin_bit_cast(__half_pair, a),
                                                      __builtin_bit_cast(__half_pair, b),
                                                      __builtin_bit_cast(__half_pair, c)));
}
METAL_FUNC void __convert(vec<half, 2>& to, vec<float, 2> from) {
  to = __builtin_bit_cast(vec<half, 2>, __nvvm_ff2f16x2_rn(from.__s[1], from.__s[0]));
}

// Two shorts as one word: one instruction, which LLVM would make of shifts and masks.
template <>
inline uint as_type<uint, vec<ushort, 2>>(vec<ushort, 2> x) {
  uint bits;
  asm("mov.b32 %0, {%1, %2};" : "=r"(bits) : "h"(x.__s[0]), "h"(x.__s[1]));
  return bits;
}

// With -D MSL_CHECK a kernel traps where part of a simdgroup asks for a cross-lane function, which
// compute-sanitizer does not notice by itself.
METAL_FUNC uint __all_lanes() {
#ifdef MSL_CHECK
  uint active;
  asm volatile("activemask.b32 %0;" : "=r"(active));
  if (active != 0xffffffffu) __builtin_trap();
#endif
  return 0xffffffffu;
}

// Applies `exchange_word` to each 32-bit word of x.
template <class T, class F>
METAL_FUNC T __exchange_words(T x, F exchange_word) {
  static_assert(!__is_bfloat<T>, "Metal's simdgroup functions take no bfloat");
  constexpr int n = (sizeof(T) + 3) / 4;
  uint words[n] = {};
  __builtin_memcpy(words, &x, sizeof(T));
  _MSL_UNROLL for (int i = 0; i < n; i++) words[i] = exchange_word(words[i]);
  __builtin_memcpy(&x, words, sizeof(T));
  return x;
}
#define _MSL_SHUFFLE(name, ...)                                                       \
  template <class T>                                                                  \
  METAL_FUNC T name(T x, ushort argument) {                                           \
    const uint mask = __all_lanes();                                                  \
    return __exchange_words(                                                          \
        x, [=](uint w) __attribute__((always_inline)) { return (uint)__VA_ARGS__; }); \
  }
_MSL_SHUFFLE(simd_shuffle, __nvvm_shfl_sync_idx_i32(mask, w, argument, 31))
_MSL_SHUFFLE(simd_broadcast, __nvvm_shfl_sync_idx_i32(mask, w, argument, 31))
_MSL_SHUFFLE(simd_shuffle_xor, __nvvm_shfl_sync_bfly_i32(mask, w, argument, 31))
_MSL_SHUFFLE(simd_shuffle_up, __nvvm_shfl_sync_up_i32(mask, w, argument, 0))
_MSL_SHUFFLE(simd_shuffle_down, __nvvm_shfl_sync_down_i32(mask, w, argument, 31))
_MSL_SHUFFLE(simd_shuffle_rotate_up,
             __nvvm_shfl_sync_idx_i32(mask, w, (__msl_lane_index() - argument) & 31, 31))
_MSL_SHUFFLE(simd_shuffle_rotate_down,
             __nvvm_shfl_sync_idx_i32(mask, w, (__msl_lane_index() + argument) & 31, 31))
_MSL_SHUFFLE(quad_shuffle,
             __nvvm_shfl_sync_idx_i32(mask, w, (__msl_lane_index() & ~3u) | (argument & 3), 31))
_MSL_SHUFFLE(quad_broadcast,
             __nvvm_shfl_sync_idx_i32(mask, w, (__msl_lane_index() & ~3u) | (argument & 3), 31))
_MSL_SHUFFLE(quad_shuffle_xor, __nvvm_shfl_sync_bfly_i32(mask, w, argument & 3, 31))
template <class T>
METAL_FUNC T simd_shuffle_and_fill_up(T x, T fill, ushort delta) {
  const T shifted = simd_shuffle_up(x, delta);
  return __msl_lane_index() >= delta ? shifted : fill;
}
template <class T>
METAL_FUNC T simd_shuffle_and_fill_down(T x, T fill, ushort delta) {
  const T shifted = simd_shuffle_down(x, delta);
  return __msl_lane_index() + delta < 32 ? shifted : fill;
}
template <class T>
METAL_FUNC T simd_broadcast_first(T x) {
  return simd_broadcast(x, 0);
}

// A fixed tree: neighbours first.
#define _MSL_REDUCTION(name, ...)                          \
  template <class T>                                       \
  METAL_FUNC T name(T a) {                                 \
    _MSL_UNROLL for (int step = 1; step < 32; step *= 2) { \
      const T b = simd_shuffle_xor(a, (ushort)step);       \
      a = (T)(__VA_ARGS__);                                \
    }                                                      \
    return a;                                              \
  }
_MSL_REDUCTION(simd_sum, a + b)
_MSL_REDUCTION(simd_product, a* b)
_MSL_REDUCTION(simd_max, max(a, b))
_MSL_REDUCTION(simd_min, min(a, b))
_MSL_REDUCTION(simd_and, a& b)
_MSL_REDUCTION(simd_or, a | b)
_MSL_REDUCTION(simd_xor, a ^ b)
template <class T>
METAL_FUNC T simd_prefix_inclusive_sum(T x) {
  _MSL_UNROLL for (int step = 1; step < 32; step *= 2) {
    const T before = simd_shuffle_up(x, (ushort)step);
    if (__msl_lane_index() >= (uint)step) x = (T)(x + before);
  }
  return x;
}
template <class T>
METAL_FUNC T simd_prefix_exclusive_sum(T x) {
  return simd_shuffle_and_fill_up(simd_prefix_inclusive_sum(x), T(0), 1);
}

METAL_FUNC simd_vote simd_ballot(bool x) {
  return simd_vote((uint)__nvvm_vote_ballot_sync(__all_lanes(), x));
}
METAL_FUNC bool simd_any(bool x) { return __nvvm_vote_any_sync(__all_lanes(), x); }
METAL_FUNC bool simd_all(bool x) { return __nvvm_vote_all_sync(__all_lanes(), x); }
METAL_FUNC bool simd_is_first() { return __msl_lane_index() == 0; }

METAL_FUNC void threadgroup_barrier(mem_flags) { __syncthreads(); }
METAL_FUNC void simdgroup_barrier(mem_flags) { __nvvm_bar_warp_sync(__all_lanes()); }

// NVIDIA's layout, not Apple's: a source that looks into thread_elements() has to find out which
// lane holds what, as by loading a matrix of indices.
METAL_FUNC void __msl_matrix_place(uint lane, uint& row, uint& column) {
  row = lane / 4;
  column = lane % 4 * 2;
}
// Half matrices use the upper half of a 16 x 8 x 8 product of the tensor cores, whose sums are in
// float; what the lower half multiplies and adds is left open, so that no register is prepared for
// it, and goes to a second product where there is one with the same right factor (products.py).
// Float ones are multiplied exactly, through shuffles.
METAL_FUNC uint __bits_of(vec<half, 2> x) {  // by way of a vector, of which no half is moved
  return __builtin_bit_cast(uint, __half_pair{x.__s[0], x.__s[1]});
}
METAL_FUNC vec<float, 2> __msl_matrix_multiply(vec<half, 2> a, vec<half, 2> b, vec<float, 2> c) {
  uint transposed;
  asm("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(transposed) : "r"(__bits_of(b)));
  float unused[2], any[2];
  uint lower;
  asm("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5}, {%6}, "
      "{%7, %8, %9, %10};"
      : "=f"(c.__s[0]), "=f"(c.__s[1]), "=f"(unused[0]), "=f"(unused[1])
      : "r"(__bits_of(a)), "r"(lower), "r"(transposed), "f"(c.__s[0]), "f"(c.__s[1]), "f"(any[0]),
        "f"(any[1]));
  return c;
}
template <class TA, class TB>
METAL_FUNC vec<float, 2> __msl_matrix_multiply(vec<TA, 2> a, vec<TB, 2> b, vec<float, 2> c) {
#ifdef MSL_PRODUCTS_OF_HALVES  // rounds, for comparisons of what is around the products
  return __msl_matrix_multiply(vec<half, 2>((half)a.__s[0], (half)a.__s[1]),
                               vec<half, 2>((half)b.__s[0], (half)b.__s[1]), c);
#endif
  const uint mask = __all_lanes();
  const vec<float, 2> left((float)a.__s[0], (float)a.__s[1]);
  const vec<float, 2> right((float)b.__s[0], (float)b.__s[1]);
  _MSL_UNROLL for (int k = 0; k < 8; k++) {
    // Element k of the lane's row of a: lane k / 2 of its four. Row k of b: lane % 4 of that row's.
    // The last operand says which bits of the lane's own number stay, so that none is computed.
    const auto of_row = [=](uint w) __attribute__((always_inline)) {
      return (uint)__nvvm_shfl_sync_idx_i32(mask, w, k / 2, 0x1c1f);
    };
    const auto of_column = [=](uint w) __attribute__((always_inline)) {
      return (uint)__nvvm_shfl_sync_idx_i32(mask, w, k * 4, 0x031f);
    };
    const float x = __exchange_words(left.__s[k % 2], of_row);
    const vec<float, 2> row = __exchange_words(right, of_column);
    c.__s[0] = __builtin_fmaf(x, row.__s[0], c.__s[0]);
    c.__s[1] = __builtin_fmaf(x, row.__s[1], c.__s[1]);
  }
  return c;
}
}  // namespace metal
