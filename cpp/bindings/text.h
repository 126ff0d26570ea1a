// Text that crosses the border. Text in a model file should be UTF-8 but nothing enforces it; what
// is not survives a round trip as Python's surrogate escapes.
#pragma once

#include <nanobind/nanobind.h>

#include <string>
#include <string_view>

namespace quarrel {

inline nanobind::object decode(std::string_view text) {
  PyObject* decoded =
      PyUnicode_DecodeUTF8(text.data(), static_cast<Py_ssize_t>(text.size()), "surrogateescape");
  if (decoded == nullptr) nanobind::raise_python_error();
  return nanobind::steal(decoded);
}

// The bytes that `decode` made this text from.
inline std::string encode(nanobind::handle text) {
  PyObject* encoded = PyUnicode_AsEncodedString(text.ptr(), "utf-8", "surrogateescape");
  if (encoded == nullptr) nanobind::raise_python_error();
  const auto bytes = nanobind::steal<nanobind::bytes>(encoded);
  return {bytes.c_str(), bytes.size()};
}

}  // namespace quarrel
