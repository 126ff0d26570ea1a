// Block formats of GGUF: portable reference conversions. Faster kernels are tested against these.
#pragma once

#include <cstddef>

#include "core/dtype.h"

namespace quarrel::gguf {

// Expands `n_elements` elements of `src` (row_bytes(dtype, n_elements) bytes, no alignment needed)
// to float32 at `dst`. n_elements must be a multiple of the dtype's block_elements, else
// InvalidArgument. Same float32 results as llama.cpp's reference and the `gguf` Python package.
void dequantize_row(DType dtype, const std::byte* src, float* dst, std::size_t n_elements);

// Packs `n_elements` float32 of `src` into row_bytes(dtype, n_elements) bytes at `dst`, rounding as
// llama.cpp's reference does. Supports what a KV cache can hold: F32, F16, BF16, Q8_0 and Q4_0;
// another dtype, or a length that is not a multiple of the block, is an InvalidArgument.
// A Q8_0 or Q4_0 block that holds a NaN or an infinity comes back as NaN throughout, so that a
// broken activation stays visible.
void quantize_row(DType dtype, const float* src, std::byte* dst, std::size_t n_elements);

}  // namespace quarrel::gguf
