// Types of the cross-lane functions.
#pragma once
namespace metal {
template <class T>
constexpr bool __is_bfloat = is_same_v<T, bfloat>;
template <int N>
constexpr bool __is_bfloat<vec<bfloat, N>> = true;

struct simd_vote {
  typedef ulong vote_t;
  ulong __mask;
  explicit simd_vote(ulong mask = 0) : __mask(mask) {}
  explicit operator ulong() const { return __mask; }
  bool all() const { return __mask == 0xffffffffu; }
  bool any() const { return __mask != 0; }
};
enum class mem_flags : uint { mem_none = 0, mem_device = 1, mem_threadgroup = 2, mem_texture = 4 };
constexpr mem_flags operator|(mem_flags a, mem_flags b) { return (mem_flags)((uint)a | (uint)b); }
}  // namespace metal
