#include "cpu/kernels/kernel_functions.h"
#include "cpu/kernels/kv_element.h"

namespace quarrel::cpu::QUARREL_ISA {
namespace {

constexpr std::size_t kLanes = 16;

// One head's vector to every 16th element (stride) or to consecutive ones (stride 1).
template <KVElement kElement>
void write_head(const float* from, std::byte* base, std::size_t at, std::size_t stride,
                std::size_t head_dim) {
  using E = Element<kElement>;
  auto* to = reinterpret_cast<typename E::Type*>(base) + at;
  for (std::size_t d = 0; d < head_dim; d += kLanes) {
    typename E::Type lanes[kLanes];
    E::store16(lanes, load(from + d));
    for (std::size_t i = 0; i < kLanes; ++i) to[(d + i) * stride] = lanes[i];
  }
}

void write_head(KVElement element, const float* from, std::byte* base, std::size_t at,
                std::size_t stride, std::size_t head_dim) {
  if (element == KVElement::F32) {
    write_head<KVElement::F32>(from, base, at, stride, head_dim);
  } else {
    write_head<KVElement::F16>(from, base, at, stride, head_dim);
  }
}

}  // namespace

void kv_write(const KVWriteArgs& a, std::size_t first_token, std::size_t n_tokens) {
  const KVView& view = a.view;
  const std::size_t width = view.n_kv_heads * view.head_dim;
  for (std::size_t t = first_token; t < first_token + n_tokens; ++t) {
    const auto slot = static_cast<std::size_t>(a.slots[t]);
    const std::size_t block = slot / view.block_size;
    const std::size_t offset = slot % view.block_size;
    for (std::size_t h = 0; h < view.n_kv_heads; ++h) {
      const std::size_t head_at = (block * view.n_kv_heads + h) * view.block_size * view.head_dim;
      const std::size_t k_at =
          head_at + offset / kKVTile * kKVTile * view.head_dim + offset % kKVTile;
      const std::size_t v_at = head_at + offset * view.head_dim;
      const std::size_t from = t * width + h * view.head_dim;
      write_head(view.k_element, a.k + from, view.k, k_at, kKVTile, view.head_dim);
      write_head(view.v_element, a.v + from, view.v, v_at, 1, view.head_dim);
    }
  }
}

}  // namespace quarrel::cpu::QUARREL_ISA
