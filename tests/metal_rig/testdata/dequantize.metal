// Every format's expansion as a kernel of its own.
#include "../../../shaders/dequantize.h"

template <typename Block>
kernel void expand(device const Block* row [[buffer(0)]], device float* out [[buffer(1)]],
                   uint chunk [[thread_position_in_grid]]) {
  float values[16];
  dequantize16(row, chunk, values);
  for (uint i = 0; i < 16; ++i) out[16 * chunk + i] = values[i];
}

#define EXPAND(name)                                                       \
  template [[host_name("expand_" #name)]] kernel void expand<Block##name>( \
      device const Block##name*, device float*, uint);
EXPAND(F32)
EXPAND(F16)
EXPAND(BF16)
EXPAND(Q8_0)
EXPAND(Q4_0)
EXPAND(Q4_1)
EXPAND(Q5_0)
EXPAND(Q5_1)
EXPAND(Q2_K)
EXPAND(Q3_K)
EXPAND(Q4_K)
EXPAND(Q5_K)
EXPAND(Q6_K)
