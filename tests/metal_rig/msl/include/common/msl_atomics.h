// <metal_atomic>. Metal on Apple GPUs has relaxed order only, so the other orders are not declared.
#pragma once
namespace metal {
enum memory_order { memory_order_relaxed = 0 };
template <class T>
struct atomic {
  T __value;
};
typedef atomic<int> atomic_int;
typedef atomic<uint> atomic_uint;
typedef atomic<float> atomic_float;
typedef atomic<bool> atomic_bool;
typedef atomic<ulong> atomic_ulong;
template <class T>
inline T atomic_load_explicit(const volatile atomic<T>* object, memory_order) {
  T value;
  __atomic_load((T*)&object->__value, &value, __ATOMIC_RELAXED);
  return value;
}
template <class T>
inline void atomic_store_explicit(volatile atomic<T>* object, __identity_t<T> value, memory_order) {
  __atomic_store((T*)&object->__value, &value, __ATOMIC_RELAXED);
}
template <class T>
inline T atomic_exchange_explicit(volatile atomic<T>* object, __identity_t<T> value, memory_order) {
  T old;
  __atomic_exchange((T*)&object->__value, &value, &old, __ATOMIC_RELAXED);
  return old;
}
template <class T>
inline bool atomic_compare_exchange_weak_explicit(volatile atomic<T>* object, T* expected,
                                                  __identity_t<T> value, memory_order,
                                                  memory_order) {
  return __atomic_compare_exchange((T*)&object->__value, expected, &value, false, __ATOMIC_RELAXED,
                                   __ATOMIC_RELAXED);
}
#define _MSL_ATOMIC_UPDATE(name, ...)                                                              \
  template <class T>                                                                               \
  inline T atomic_fetch_##name##_explicit(volatile atomic<T>* object, __identity_t<T> operand,     \
                                          memory_order order) {                                    \
    T old = atomic_load_explicit(object, order);                                                   \
    while (!atomic_compare_exchange_weak_explicit(object, &old, (T)(__VA_ARGS__), order, order)) { \
    }                                                                                              \
    return old;                                                                                    \
  }
_MSL_ATOMIC_UPDATE(add, old + operand)
_MSL_ATOMIC_UPDATE(sub, old - operand)
_MSL_ATOMIC_UPDATE(or, old | operand)
_MSL_ATOMIC_UPDATE(and, old& operand)
_MSL_ATOMIC_UPDATE(xor, old ^ operand)
_MSL_ATOMIC_UPDATE(max, max(old, operand))
_MSL_ATOMIC_UPDATE(min, min(old, operand))
}  // namespace metal
