// Calls from C++ to a Python class that derives from a bound interface.
#pragma once

#include <nanobind/nanobind.h>

#include <string>
#include <type_traits>
#include <utility>

#include "core/error.h"

namespace quarrel {

// self.method(args...), with the GIL taken: steps run without it. InvalidArgument when the Python
// class did not override the method (calling it would come straight back here).
// make_args: called with the GIL held, returns a tuple of arguments.
template <class Result, class Base, class MakeArgs>
Result call_python(const Base* self, const char* method, const MakeArgs& make_args) {
  const nanobind::gil_scoped_acquire gil;
  const nanobind::object object = nanobind::find(self);
  if (object.type().attr(method).is(nanobind::type<Base>().attr(method)))
    throw InvalidArgument("[plugin] expected " +
                          std::string(nanobind::type_name(object.type()).c_str()) + " to define " +
                          method);
  const nanobind::object result = object.attr(method)(*make_args());
  if constexpr (!std::is_void_v<Result>) return nanobind::cast<Result>(result);
}

}  // namespace quarrel
