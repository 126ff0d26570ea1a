// The rows whose logits are wanted.
#include "common.h"
#include "params.h"

// A thread has four elements of a row.
// grid: threads (n / 4, n_selected), x rounded up; threadgroups of any width x 1.
kernel void select_rows(device const float4* x [[buffer(kSelectRowsX)]],
                        device const int* rows [[buffer(kSelectRowsRows)]],
                        device float4* out [[buffer(kSelectRowsOut)]],
                        constant SelectRowsParams& params [[buffer(kSelectRowsParams)]],
                        uint2 index [[thread_position_in_grid]]) {
  const uint n4 = params.n / 4;
  if (index.x < n4) out[ulong(index.y) * n4 + index.x] = x[ulong(rows[index.y]) * n4 + index.x];
}
