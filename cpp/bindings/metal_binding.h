// The binding of the Metal device, for the product's module and for the one that tests build.
#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/string_view.h>

#include <string>
#include <utility>

#include "metal/metal_device.h"

namespace quarrel {

// MetalDeviceType: MetalDevice, or a class derived from it. A type is registered once per process.
template <class MetalDeviceType>
void bind_metal_device(nanobind::module_& m) {
  namespace nb = nanobind;
  using namespace nb::literals;
  nb::class_<MetalDeviceType, Device>(m, "MetalDevice",
                                      "The GPU of a Mac with Apple silicon; a build without Metal "
                                      "raises QuarrelError when one is made.")
      .def(
          "__init__",
          [](MetalDeviceType* self, std::string archive_folder, std::string metallib_folder) {
            new (self) MetalDeviceType(
                metal::MetalOptions{std::move(archive_folder), std::move(metallib_folder)});
          },
          "archive_folder"_a = "", "metallib_folder"_a = "",
          "archive_folder: where compiled pipelines are kept for the next process; "
          "metallib_folder:\n"
          "where shaders compiled at build time lie. Without one: nowhere.")
      .def_static("is_available", &MetalDeviceType::is_available,
                  "Whether this build has Metal and the system a GPU for it.")
      .def_prop_ro("gpu_name", &MetalDeviceType::gpu_name)
      .def_prop_ro("recommended_bytes", &MetalDeviceType::recommended_bytes,
                   "The most that the system advises to keep in GPU memory; a hard limit here.")
      .def_prop_ro("allocated_bytes", &MetalDeviceType::allocated_bytes,
                   "What this process has in GPU memory.")
      .def_prop_ro("step_seconds", &MetalDeviceType::step_seconds, "GPU time of the last step.")
      .def("capture_next_step", &MetalDeviceType::capture_next_step, "file"_a,
           "Record the next step to a .gputrace file for Xcode. Needs METAL_CAPTURE_ENABLED=1.");
}

}  // namespace quarrel
