// _metal_rig.MetalDevice: what longbow_quarrel._core.MetalDevice is on a Mac.
#include "bindings/metal_binding.h"

namespace quarrel::metal {

// A type of its own: longbow_quarrel._core has registered MetalDevice, a stub here.
class RigDevice final : public MetalDevice {
 public:
  using MetalDevice::MetalDevice;
};

}  // namespace quarrel::metal

NB_MODULE(_metal_rig, m) {
  nanobind::module_::import_("longbow_quarrel._core");  // its classes are the bases of ours
  quarrel::bind_metal_device<quarrel::metal::RigDevice>(m);
}
