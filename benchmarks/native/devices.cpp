#include "devices.h"

#include <string>

#include "core/error.h"
#include "cpu/cpu_device.h"

namespace quarrel::bench {

std::unique_ptr<Device> make_device(std::string_view name, std::string_view isa,
                                    std::size_t n_threads) {
  if (name == "cpu") return std::make_unique<cpu::CpuDevice>(static_cast<int>(n_threads), isa);
  throw Error("[" + std::string(name) + "] this build has no such device");
}

}  // namespace quarrel::bench
