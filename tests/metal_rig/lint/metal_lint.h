// metal_stdlib for the address-space lint: C++ for OpenCL 2021 with the generic address space off,
// where an unqualified pointer is a `thread` pointer. Declarations only, and loose in their types:
// the shim of msl/ checks those. What matters here is where pointers point.
#pragma once
#define __METAL_VERSION__ 310
#define __METAL__ 1
#define __HAVE_BFLOAT__ 1
#pragma OPENCL EXTENSION cl_khr_fp16 : enable
#pragma OPENCL EXTENSION cl_khr_fp64 : enable
#define kernel
#define device __global
#define constant __constant
#define threadgroup __local
#define thread __private
#define METAL_FUNC inline
#define INFINITY __builtin_inff()
#define NAN __builtin_nanf("")
#define FLT_MAX 3.402823466e+38f
#define UINT_MAX 4294967295u
#define M_PI_F 3.14159274f
#define M_LOG2E_F 1.44269502f
#define M_LN2_F 0.693147182f

typedef unsigned char uchar, uint8_t;
typedef signed char int8_t;
typedef short int16_t;
typedef unsigned short ushort, uint16_t;
typedef int int32_t;
typedef unsigned int uint, uint32_t;
typedef long int64_t, ptrdiff_t;
typedef unsigned long ulong, uint64_t, size_t, uintptr_t;
typedef double bfloat;  // a type of its own that converts to the others; Metal has no double

// float4(a, b) is rewritten to make_float4(a, b): this language has no such constructors.
#define LINT_VECTOR(T, N)                             \
  typedef T T##N __attribute__((ext_vector_type(N))); \
  template <class... A>                               \
  T##N make_##T##N(A...);                             \
  struct packed_##T##N {                              \
    T s[N];                                           \
  };
#define LINT_VECTORS(T) LINT_VECTOR(T, 2) LINT_VECTOR(T, 3) LINT_VECTOR(T, 4)
LINT_VECTORS(char)
LINT_VECTORS(uchar)
LINT_VECTORS(short)
LINT_VECTORS(ushort)
LINT_VECTORS(int)
LINT_VECTORS(uint)
LINT_VECTORS(long)
LINT_VECTORS(ulong)
LINT_VECTORS(half)
LINT_VECTORS(bfloat)
LINT_VECTORS(float)
typedef int2 bool2;
typedef int3 bool3;
typedef int4 bool4;

namespace metal {
template <class T, int N>
using vec = T __attribute__((ext_vector_type(N)));
template <class D, class S>
D as_type(S);

#define LINT_1(f)    \
  template <class T> \
  T f(T);
#define LINT_2(f)             \
  template <class T, class U> \
  T f(T, U);
#define LINT_3(f)                      \
  template <class T, class U, class V> \
  T f(T, U, V);
#define LINT_MATH(M)                                                                             \
  M(exp)                                                                                         \
  M(exp2)                                                                                        \
  M(exp10) M(log) M(log2) M(log10) M(sqrt) M(rsqrt) M(sin) M(cos) M(tan) M(sinh) M(cosh) M(tanh) \
      M(asin) M(acos) M(atan) M(asinh) M(acosh) M(atanh) M(fabs)
LINT_MATH(LINT_1)
LINT_1(floor)
LINT_1(ceil)
LINT_1(round)
LINT_1(rint)
LINT_1(trunc)
LINT_1(fract)
LINT_1(sign)
LINT_1(saturate)
LINT_1(abs)
LINT_1(popcount)
LINT_1(clz)
LINT_1(ctz)
LINT_2(pow)
LINT_2(powr)
LINT_2(atan2)
LINT_2(fmod)
LINT_2(fmin)
LINT_2(fmax)
LINT_2(min)
LINT_2(max)
LINT_2(copysign)
LINT_2(step)
LINT_2(ldexp)
LINT_2(mulhi)
LINT_3(fma)
LINT_3(mix)
LINT_3(clamp)
LINT_3(select)
LINT_3(extract_bits)
template <class T>
bool isnan(T);
template <class T>
bool isinf(T);
template <class T>
bool isfinite(T);
template <class T>
bool any(T);
template <class T>
bool all(T);
template <class V>
decltype(V().x) dot(V, V);
template <class V>
decltype(V().x) length(V);
#define LINT_USING(f) using metal::f;
namespace fast {
LINT_MATH(LINT_USING)
}
namespace precise {
LINT_MATH(LINT_USING)
}

enum class mem_flags : uint { mem_none = 0, mem_device = 1, mem_threadgroup = 2 };
constexpr mem_flags operator|(mem_flags a, mem_flags b) { return (mem_flags)((uint)a | (uint)b); }
void threadgroup_barrier(mem_flags);
void simdgroup_barrier(mem_flags);
LINT_1(simd_sum)
LINT_1(simd_product)
LINT_1(simd_max)
LINT_1(simd_min)
LINT_1(simd_and)
LINT_1(simd_or)
LINT_1(simd_xor)
LINT_1(simd_broadcast_first)
LINT_1(simd_prefix_inclusive_sum)
LINT_1(simd_prefix_exclusive_sum)
LINT_2(simd_shuffle)
LINT_2(simd_shuffle_xor)
LINT_2(simd_shuffle_up)
LINT_2(simd_shuffle_down)
LINT_2(simd_shuffle_rotate_up)
LINT_2(simd_shuffle_rotate_down)
LINT_2(simd_broadcast)
LINT_2(quad_shuffle)
LINT_2(quad_shuffle_xor)
LINT_2(quad_broadcast)
LINT_3(simd_shuffle_and_fill_up)
LINT_3(simd_shuffle_and_fill_down)
bool simd_all(bool);
bool simd_any(bool);
bool simd_is_first();
struct simd_vote {
  ulong mask;
};
simd_vote simd_ballot(bool);

template <class T, int R, int C>
struct simdgroup_matrix {
  vec<T, 2> elements;
  // The implicit assignment wants the generic address space. This one takes results of functions;
  // copying one matrix variable to another is not modelled.
  thread simdgroup_matrix& operator=(simdgroup_matrix) thread;
  thread vec<T, 2>& thread_elements();
};
template <class T, int R, int C = R>
simdgroup_matrix<T, R, C> make_filled_simdgroup_matrix(T);
// The matrix lies in thread memory, its source and destination in device or threadgroup memory.
#define LINT_MATRIX_MEMORY(space)                                                    \
  template <class T>                                                                 \
  void simdgroup_load(thread simdgroup_matrix<T, 8, 8>&, space const T*, ulong = 8,  \
                      ulong2 = (ulong2)(0), bool = false);                           \
  template <class T>                                                                 \
  void simdgroup_store(const thread simdgroup_matrix<T, 8, 8>&, space T*, ulong = 8, \
                       ulong2 = (ulong2)(0), bool = false);
LINT_MATRIX_MEMORY(device)
LINT_MATRIX_MEMORY(threadgroup)
template <class D, class A, class B, class C>
void simdgroup_multiply_accumulate(thread D&, const thread A&, const thread B&, const thread C&);
template <class D, class A, class B>
void simdgroup_multiply(thread D&, const thread A&, const thread B&);
typedef simdgroup_matrix<float, 8, 8> simdgroup_float8x8;
typedef simdgroup_matrix<half, 8, 8> simdgroup_half8x8;
typedef simdgroup_matrix<bfloat, 8, 8> simdgroup_bfloat8x8;

enum memory_order { memory_order_relaxed = 0 };
template <class T>
struct atomic {
  T value;
};
typedef atomic<int> atomic_int;
typedef atomic<uint> atomic_uint;
typedef atomic<float> atomic_float;
#define LINT_ATOMIC(name, space) \
  template <class T>             \
  T atomic_##name##_explicit(volatile space atomic<T>*, T, memory_order);
#define LINT_ATOMICS(space)                                              \
  template <class T>                                                     \
  T atomic_load_explicit(const volatile space atomic<T>*, memory_order); \
  LINT_ATOMIC(store, space)                                              \
  LINT_ATOMIC(exchange, space)                                           \
  LINT_ATOMIC(fetch_add, space)                                          \
  LINT_ATOMIC(fetch_max, space)                                          \
  LINT_ATOMIC(fetch_min, space)                                          \
  LINT_ATOMIC(fetch_or, space)
LINT_ATOMICS(device)
LINT_ATOMICS(threadgroup)

template <class T>
struct numeric_limits {
  static T max();
  static T min();
  static T lowest();
  static T infinity();
};
template <class A, class B>
constexpr bool is_same_v = __is_same(A, B);
template <bool B, class T, class F>
struct conditional {
  typedef T type;
};
template <class T, class F>
struct conditional<false, T, F> {
  typedef F type;
};
template <bool B, class T, class F>
using conditional_t = typename conditional<B, T, F>::type;
}  // namespace metal
using metal::as_type;
