// Rows of the embedding table, expanded from the file's format.
#include "common.h"
#include "dequantize.h"
#include "params.h"

// A thread has kEmbeddingElements of a row.
// grid: threads (n / kEmbeddingElements, n_tokens), x rounded up; threadgroups of any width x 1.
template <typename Block>
kernel void embedding(device const Block* table [[buffer(kEmbeddingTable)]],
                      device const int* tokens [[buffer(kEmbeddingTokens)]],
                      device float4* out [[buffer(kEmbeddingOut)]],
                      constant EmbeddingParams& params [[buffer(kEmbeddingParams)]],
                      uint2 index [[thread_position_in_grid]]) {
  const uint n_chunks = params.n / kEmbeddingElements;
  if (index.x >= n_chunks) return;
  device const Block* row = table + ulong(tokens[index.y]) * (params.n / Block::kElements);
  float values[kEmbeddingElements];
  dequantize16(row, index.x, values);
  device float4* to = out + (ulong(index.y) * n_chunks + index.x) * (kEmbeddingElements / 4);
  for (uint i = 0; i < kEmbeddingElements / 4; ++i) {
    const float4 four =
        float4(values[4 * i], values[4 * i + 1], values[4 * i + 2], values[4 * i + 3]);
    to[i] = four * params.scale;
  }
}

#define INSTANTIATE(name, Block)                                          \
  template [[host_name("embedding_" name)]] kernel void embedding<Block>( \
      device const Block* table [[buffer(kEmbeddingTable)]],              \
      device const int* tokens [[buffer(kEmbeddingTokens)]],              \
      device float4* out [[buffer(kEmbeddingOut)]],                       \
      constant EmbeddingParams& params [[buffer(kEmbeddingParams)]],      \
      uint2 index [[thread_position_in_grid]]);

INSTANTIATE("F32", BlockF32)
INSTANTIATE("F16", BlockF16)
INSTANTIATE("BF16", BlockBF16)
INSTANTIATE("Q8_0", BlockQ8_0)
INSTANTIATE("Q4_0", BlockQ4_0)
INSTANTIATE("Q4_1", BlockQ4_1)
INSTANTIATE("Q5_0", BlockQ5_0)
INSTANTIATE("Q5_1", BlockQ5_1)
INSTANTIATE("Q2_K", BlockQ2_K)
INSTANTIATE("Q3_K", BlockQ3_K)
INSTANTIATE("Q4_K", BlockQ4_K)
INSTANTIATE("Q5_K", BlockQ5_K)
INSTANTIATE("Q6_K", BlockQ6_K)
