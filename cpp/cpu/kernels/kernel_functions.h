// Declarations of this instruction set's kernels; table.cpp gathers them.
#pragma once

#include "cpu/kernels.h"
#include "cpu/simd/simd.h"

namespace quarrel::cpu::QUARREL_ISA {

void quantize_row(const float* x, std::byte* to, std::size_t n);
void linear(const LinearArgs&, const LinearItem&, std::byte* scratch);
void linear_float(const LinearArgs&, const LinearItem&);  // weights that are not quantised
void rms_norm(const RmsNormArgs&, std::size_t first_row, std::size_t n_rows);
void rope(const RopeArgs&, std::size_t first_token, std::size_t n_tokens);
void kv_write(const KVWriteArgs&, std::size_t first_token, std::size_t n_tokens);
void attention(const AttentionArgs&, const AttentionItem&, float* scratch);
void attention_partition(const AttentionArgs&, const AttentionItem&, std::size_t partition,
                         float* partial, float* scratch);
void attention_join(const AttentionArgs&, const AttentionItem&, std::size_t n_partitions,
                    const float* partials, float* scratch);
void silu_mul(const float* gate, const float* up, float* y, std::size_t n);
void gelu_mul(const float* gate, const float* up, float* y, std::size_t n);
void add(const float* a, const float* b, float* y, float scale, std::size_t n);
void scale(const float* x, float* y, float factor, std::size_t n);
void softcap(const float* x, float* y, float cap, std::size_t n);

}  // namespace quarrel::cpu::QUARREL_ISA
