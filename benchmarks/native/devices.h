// Devices by their name.
#pragma once

#include <cstddef>
#include <memory>
#include <string_view>

#include "program/device.h"

namespace quarrel::bench {

// isa and n_threads: of the CPU device. Throws Error where this build or this machine has no such
// device, or no such instruction set.
std::unique_ptr<Device> make_device(std::string_view name, std::string_view isa,
                                    std::size_t n_threads);

}  // namespace quarrel::bench
