// The Metal device, as Python sees it.
#include "bindings/metal_binding.h"

namespace quarrel {

void bind_metal(nanobind::module_& m) { bind_metal_device<metal::MetalDevice>(m); }

}  // namespace quarrel
