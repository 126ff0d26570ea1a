// Counters and histograms of metrics, as Python sees them.
#include <nanobind/nanobind.h>
#include <nanobind/stl/vector.h>

#include <vector>

#include "core/tallies.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace quarrel {

void bind_tallies(nb::module_& m) {
  nb::class_<Counter>(m, "Counter", "Counts upwards; any thread may add and read.")
      .def(nb::init<>())
      .def("add", &Counter::add, "n"_a)
      .def_prop_ro("value", &Counter::value);
  nb::class_<Histogram>(m, "Histogram",
                        "How often values fell into each bucket; any thread may observe and read.")
      .def(nb::init<std::vector<double>>(), "bounds"_a,
           "bounds: inclusive upper bounds, ascending; a last bucket without a bound is added. "
           "Raises\nUsageError where they do not ascend.")
      .def("observe", &Histogram::observe, "value"_a)
      .def_prop_ro("bounds", &Histogram::bounds)
      .def_prop_ro("counts", &Histogram::counts,
                   "One per bucket, the last one of values above all bounds.")
      .def_prop_ro("sum", &Histogram::sum);
}

}  // namespace quarrel
