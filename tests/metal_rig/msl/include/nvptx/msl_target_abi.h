// NVPTX target: where a kernel finds its arguments, float functions, literals. clang -x cuda,
// device only, without CUDA's headers and library.
#pragma once

// The addresses that a launch gave to a kernel, by index of the argument table.
struct __msl_lane {
  char* buffers[31];
  char* threadgroup_memory[31];
};

inline uint __msl_lane_index() { return __nvvm_read_ptx_sreg_laneid(); }
// ptxas counts threadgroup memory.
inline void __msl_threadgroup_variable(void*, unsigned long) {}

// The device has no long double, so that a literal's characters are read.
constexpr float __msl_literal(const char* text) {
  float value = 0.0f, scale = 1.0f;
  bool fraction = false;
  for (; *text != 0; ++text) {
    if (*text == '.') {
      fraction = true;
    } else {
      value = value * 10.0f + float(*text - '0');
      if (fraction) scale *= 10.0f;
    }
  }
  return value / scale;
}
#pragma clang diagnostic ignored "-Wuser-defined-literals"
constexpr half operator""h(const char* text) { return (half)__msl_literal(text); }
constexpr bfloat operator"" bf(const char* text) { return (bfloat)__msl_literal(text); }

// The hardware's approximations have a relative error of about 2^-22; exp, tanh and the like are
// built on them, with care where that error would grow.
inline float __msl_exp2(float x) { return __nvvm_ex2_approx_ftz_f(x); }
inline float __msl_exp(float x) {
  if (x != x) return x;
  x = __builtin_fminf(__builtin_fmaxf(x, -110.0f), 110.0f);
  const float power = x * 1.44269502f;
  const float rest = __builtin_fmaf(x, 1.44269502f, -power) + x * 1.92596303e-8f;
  const float value = __msl_exp2(power);
  return power > 127.9f ? value : __builtin_fmaf(value, rest * 0.693147182f, value);
}
inline float __msl_log2(float x) { return __nvvm_lg2_approx_f(x); }
inline float __msl_log(float x) { return __msl_log2(x) * 0.693147182f; }
inline float __msl_log10(float x) { return __msl_log2(x) * 0.301029996f; }
inline float __msl_sqrt(float x) { return __nvvm_sqrt_rn_f(x); }
inline float __msl_rsqrt(float x) { return __nvvm_rsqrt_approx_f(x); }
inline float __msl_fmin(float x, float y) { return __builtin_fminf(x, y); }
inline float __msl_fmax(float x, float y) { return __builtin_fmaxf(x, y); }
inline float __msl_powr(float x, float y) { return __msl_exp2(y * __msl_log2(x)); }
inline float __msl_pow(float x, float y) {
  const float magnitude = __msl_powr(__builtin_fabsf(x), y);
  if (y == 0.0f) return 1.0f;
  return x < 0.0f && ((int)y & 1) != 0 ? -magnitude : magnitude;
}
inline float __msl_exp10(float x) { return __msl_exp2(x * 3.32192802f); }
inline float __msl_fmod(float x, float y) { return x - y * __builtin_truncf(x / y); }
inline float __msl_ldexp(float x, int e) { return x * __msl_exp2((float)e); }
// Less the nearest multiple of 2 pi.
inline float __msl_reduced(float x) {
  const float turns = __builtin_rintf(x * 0.159154937f);
  return __builtin_fmaf(turns, 1.74845553e-7f, __builtin_fmaf(turns, -6.28318548f, x));
}
inline float __msl_sin(float x) { return __nvvm_sin_approx_f(__msl_reduced(x)); }
inline float __msl_cos(float x) { return __nvvm_cos_approx_f(__msl_reduced(x)); }
inline float __msl_tan(float x) { return __msl_sin(x) / __msl_cos(x); }
inline float __msl_sinh(float x) { return 0.5f * (__msl_exp(x) - __msl_exp(-x)); }
inline float __msl_cosh(float x) { return 0.5f * (__msl_exp(x) + __msl_exp(-x)); }
inline float __msl_tanh(float x) {
  const float square = x * x;
  if (square < 0.0625f) {  // the first terms of the series
    return x * (1.0f + square * (-0.333333343f +
                                 square * (0.133333340f +
                                           square * (-0.0539682545f + square * 0.0218694881f))));
  }
  return __builtin_copysignf(1.0f - 2.0f / (__msl_exp(2.0f * __builtin_fabsf(x)) + 1.0f), x);
}
// Not there yet: declared, so that a use of them is an error when PTX is assembled.
float __msl_asin(float);
float __msl_acos(float);
float __msl_atan(float);
float __msl_asinh(float);
float __msl_acosh(float);
float __msl_atanh(float);
float __msl_atan2(float, float);
