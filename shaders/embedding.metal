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

INSTANTIATE("f32", BlockF32)
INSTANTIATE("f16", BlockF16)
INSTANTIATE("bf16", BlockBF16)
INSTANTIATE("q8_0", BlockQ8_0)
INSTANTIATE("q4_0", BlockQ4_0)
INSTANTIATE("q4_1", BlockQ4_1)
INSTANTIATE("q5_0", BlockQ5_0)
INSTANTIATE("q5_1", BlockQ5_1)
INSTANTIATE("q2_k", BlockQ2_K)
INSTANTIATE("q3_k", BlockQ3_K)
INSTANTIATE("q4_k", BlockQ4_K)
INSTANTIATE("q5_k", BlockQ5_K)
INSTANTIATE("q6_k", BlockQ6_K)
