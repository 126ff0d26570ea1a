#include "devices.h"

#include "cpu/cpu_device.h"
#include "metal/metal_device.h"

namespace quarrel::bench {

std::unique_ptr<Device> make_device(std::string_view name, std::string_view isa,
                                    std::size_t n_threads) {
  if (name == "cpu") return std::make_unique<cpu::CpuDevice>(static_cast<int>(n_threads), isa);
  return std::make_unique<metal::MetalDevice>(metal::MetalOptions{});
}

}  // namespace quarrel::bench
