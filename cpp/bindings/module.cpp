// longbow_quarrel._core: one bind_ function per topic.
#include <nanobind/nanobind.h>

#include <exception>

#include "core/error.h"

namespace nb = nanobind;

namespace quarrel {

void bind_cache(nb::module_& m);
void bind_device(nb::module_& m);
void bind_gguf(nb::module_& m);
void bind_memory(nb::module_& m);
void bind_metal(nb::module_& m);
void bind_program(nb::module_& m);
void bind_sampling(nb::module_& m);
void bind_snapshot(nb::module_& m);
void bind_tallies(nb::module_& m);
void bind_tokenizer(nb::module_& m);
void bind_trace(nb::module_& m);

namespace {

void raise(const char* python_class, const char* message) {
  const nb::object type = nb::module_::import_("longbow_quarrel.errors").attr(python_class);
  PyErr_SetString(type.ptr(), message);
}

// C++ errors become the classes of errors.py.
void translate(const std::exception_ptr& exception, void*) {
  try {
    std::rethrow_exception(exception);
  } catch (const ModelFormatError& e) {
    raise("ModelFormatError", e.what());
  } catch (const OutOfMemoryError& e) {
    raise("OutOfMemoryError", e.what());
  } catch (const SnapshotError& e) {
    raise("SnapshotError", e.what());
  } catch (const InvalidArgument& e) {
    raise("UsageError", e.what());
  } catch (const Error& e) {
    raise("QuarrelError", e.what());
  }
}

}  // namespace
}  // namespace quarrel

NB_MODULE(_core, m) {
  m.doc() =
      "The native half of longbow_quarrel: model files, cache bookkeeping, kernels, sampling.";
  nb::register_exception_translator(quarrel::translate);
  // A tokenizer or model in a global variable lives until the process ends; that is no leak.
  nb::set_leak_warnings(false);
  quarrel::bind_memory(m);
  quarrel::bind_trace(m);
  quarrel::bind_gguf(m);
  quarrel::bind_cache(m);
  quarrel::bind_snapshot(m);
  quarrel::bind_program(m);
  quarrel::bind_device(m);
  quarrel::bind_metal(m);
  quarrel::bind_sampling(m);
  quarrel::bind_tallies(m);
  quarrel::bind_tokenizer(m);
}
