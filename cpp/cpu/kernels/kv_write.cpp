// Stores K and V at the slots of a step; see kv_format.h.
#include "cpu/kernels/hadamard.h"
#include "cpu/kernels/kernel_functions.h"
#include "cpu/kernels/kv_quantize.h"

namespace quarrel::cpu::QUARREL_ISA {
namespace {

constexpr std::size_t kLanes = 16;

// Rounds to nearest even, as the other conversions do.
std::uint16_t to_bf16(float x) {
  std::uint32_t bits;
  __builtin_memcpy(&bits, &x, sizeof bits);
  if ((bits & 0x7fffffff) > 0x7f800000) return static_cast<std::uint16_t>(bits >> 16 | 0x40);
  return static_cast<std::uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

void narrow(const float* from, float* to) { store(to, load(from)); }
void narrow_f16(const float* from, std::uint16_t* to) { store_f16(to, load(from)); }
void narrow_bf16(const float* from, std::uint16_t* to) {
  for (std::size_t i = 0; i < kLanes; ++i) to[i] = to_bf16(from[i]);
}

// Where a token's numbers and scales go in its tile, and how far apart they lie: K has the tile's
// tokens between them, V nothing.
struct Place {
  std::byte* tile;
  std::size_t token;
  std::size_t tile_tokens;
  bool transposed;

  std::size_t at(std::size_t i, std::size_t n) const {
    return transposed ? i * tile_tokens + token : token * n + i;
  }
};

// One head's vector as it is or in half the bytes.
template <class T, void (*kNarrow)(const float*, T*)>
void write_plain(const float* x, std::size_t head_dim, const Place& to) {
  auto* numbers = reinterpret_cast<T*>(to.tile);
  for (std::size_t d = 0; d < head_dim; d += kLanes) {
    T lanes[kLanes];
    kNarrow(x + d, lanes);
    for (std::size_t i = 0; i < kLanes; ++i) numbers[to.at(d + i, head_dim)] = lanes[i];
  }
}

void write_scale(std::uint16_t scale, std::size_t group, std::size_t head_dim, KVElement element,
                 const Place& to) {
  auto* scales = reinterpret_cast<std::uint16_t*>(to.tile + kv_number_bytes(element, head_dim) *
                                                                to.tile_tokens);
  scales[to.at(group, kv_groups(head_dim))] = scale;
}

void write_q8_0(const float* x, std::size_t head_dim, const Place& to) {
  auto* numbers = reinterpret_cast<std::int8_t*>(to.tile);
  for (std::size_t d = 0; d < head_dim; d += kKVGroup) {
    const std::size_t n = head_dim - d < kKVGroup ? head_dim - d : kKVGroup;
    const QuantizedGroup group = quantize_q8_0(x + d, n);
    for (std::size_t i = 0; i < n; ++i) numbers[to.at(d + i, head_dim)] = group.numbers[i];
    write_scale(group.scale, d / kKVGroup, head_dim, KVElement::Q8_0, to);
  }
}

void write_q4_0(const float* x, std::size_t head_dim, const Place& to) {
  auto* bytes = reinterpret_cast<std::uint8_t*>(to.tile);
  for (std::size_t d = 0; d < head_dim; d += kKVGroup) {
    const std::size_t n = head_dim - d < kKVGroup ? head_dim - d : kKVGroup;
    const QuantizedGroup group = quantize_q4_0(x + d, n);
    // Byte i has dimensions first and first + apart.
    const std::size_t apart = to.transposed ? 1 : kLanes / 2;
    for (std::size_t i = 0; i < n / 2; ++i) {
      const std::size_t first = to.transposed ? 2 * i : i / apart * kLanes + i % apart;
      bytes[to.at(d / 2 + i, head_dim / 2)] = static_cast<std::uint8_t>(
          (group.numbers[first] + 8) | (group.numbers[first + apart] + 8) << 4);
    }
    write_scale(group.scale, d / kKVGroup, head_dim, KVElement::Q4_0, to);
  }
}

void write_quantized(KVElement element, const float* x, std::size_t head_dim, const Place& to) {
  float transformed[kKVMaxQuantizedHead];
  __builtin_memcpy(transformed, x, head_dim * sizeof(float));
  hadamard(transformed, head_dim);
  if (element == KVElement::Q8_0) return write_q8_0(transformed, head_dim, to);
  write_q4_0(transformed, head_dim, to);
}

void write_head(KVElement element, const float* x, std::size_t head_dim, const Place& to) {
  switch (element) {
    case KVElement::F32:
      return write_plain<float, narrow>(x, head_dim, to);
    case KVElement::F16:
      return write_plain<std::uint16_t, narrow_f16>(x, head_dim, to);
    case KVElement::BF16:
      return write_plain<std::uint16_t, narrow_bf16>(x, head_dim, to);
    case KVElement::Q8_0:
    case KVElement::Q4_0:
      return write_quantized(element, x, head_dim, to);
  }
}

}  // namespace

void kv_write(const KVWriteArgs& a, std::size_t first_token, std::size_t n_tokens) {
  const KVView& view = a.view;
  const std::size_t width = view.n_kv_heads * view.head_dim;
  const std::size_t tile = kv_tile(view.block_size);
  const std::size_t k_bytes = kv_token_bytes(view.k_element, view.head_dim);
  const std::size_t v_bytes = kv_token_bytes(view.v_element, view.head_dim);
  for (std::size_t t = first_token; t < first_token + n_tokens; ++t) {
    const auto slot = static_cast<std::size_t>(a.slots[t]);
    const std::size_t block = slot / view.block_size;
    const std::size_t token = slot % view.block_size % tile;
    for (std::size_t h = 0; h < view.n_kv_heads; ++h) {
      const std::size_t first =  // token of the tile, counted over all blocks and heads
          (block * view.n_kv_heads + h) * view.block_size + slot % view.block_size - token;
      const std::size_t from = t * width + h * view.head_dim;
      write_head(view.k_element, a.k + from, view.head_dim,
                 {view.k + first * k_bytes, token, tile, true});
      write_head(view.v_element, a.v + from, view.head_dim,
                 {view.v + first * v_bytes, token, tile, false});
    }
  }
}

}  // namespace quarrel::cpu::QUARREL_ISA
