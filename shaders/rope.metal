// Rotary position embedding (Su et al., "RoFormer", 2021). Angles come from the host, in double
// precision: they grow with the position.
#include "common.h"
#include "params.h"

// Pairs (2i, 2i + 1), else (i, i + n_rotated / 2).
constant bool kInterleaved [[function_constant(kConstantRopeInterleaved)]];

// A thread has a pair of a head, or two elements beyond the rotated ones, which it copies.
// grid: threads (n_heads * head_dim / 2, n_tokens), x rounded up; threadgroups of any width x 1.
kernel void rope(device const float* x [[buffer(kRopeX)]],
                 device const float* angles [[buffer(kRopeAngles)]],
                 device float* out [[buffer(kRopeOut)]],
                 constant RopeParams& params [[buffer(kRopeParams)]],
                 uint2 index [[thread_position_in_grid]]) {
  const uint n_pairs = params.head_dim / 2;
  const uint head = index.x / n_pairs, pair = index.x % n_pairs, n = params.n_rotated / 2;
  if (head >= params.n_heads) return;
  const ulong first = (ulong(index.y) * params.n_heads + head) * params.head_dim;
  const bool is_rotated = pair < n;
  const uint a = is_rotated && !kInterleaved ? pair : 2 * pair;
  const uint b = is_rotated && !kInterleaved ? pair + n : 2 * pair + 1;
  const float xa = x[first + a], xb = x[first + b];
  float cosine = 1.0f, sine = 0.0f;
  if (is_rotated) {
    cosine = angles[ulong(index.y) * 2 * n + pair];
    sine = angles[ulong(index.y) * 2 * n + n + pair];
  }
  out[first + a] = xa * cosine - xb * sine;
  out[first + b] = xb * cosine + xa * sine;
}
