// The memory ledger, as Python sees it.
#include <nanobind/nanobind.h>
#include <nanobind/stl/map.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>

#include <map>
#include <string>

#include "core/error.h"
#include "core/memory_ledger.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace quarrel {
namespace {

std::map<std::string, std::size_t> used_by_kind(const MemoryLedger& ledger) {
  std::map<std::string, std::size_t> used;
  for (std::size_t i = 0; i < kMemoryKinds; ++i) {
    const auto kind = static_cast<MemoryKind>(i);
    used[std::string(memory_kind_name(kind))] = ledger.used_bytes(kind);
  }
  return used;
}

MemoryLedger::Charge charge(MemoryLedger& ledger, const std::string& kind, std::size_t n_bytes) {
  for (std::size_t i = 0; i < kMemoryKinds; ++i) {
    const auto candidate = static_cast<MemoryKind>(i);
    if (memory_kind_name(candidate) == kind) return ledger.charge(candidate, n_bytes);
  }
  throw InvalidArgument("[memory] expected a kind of memory, got \"" + kind + "\"");
}

}  // namespace

void bind_memory(nb::module_& m) {
  nb::class_<MemoryLedger::Charge>(m, "MemoryCharge",
                                   "Bytes in a ledger; they go back when this does.")
      .def_prop_ro("n_bytes", &MemoryLedger::Charge::bytes);
  nb::class_<MemoryLedger>(m, "MemoryLedger", "One account of every byte, with a hard cap.")
      .def(nb::new_(&MemoryLedger::create), "cap_bytes"_a)
      .def_prop_ro("cap_bytes", &MemoryLedger::cap_bytes)
      .def_prop_ro("peak_bytes", &MemoryLedger::peak_bytes)
      .def_prop_ro("used_bytes", [](const MemoryLedger& l) { return l.used_bytes(); })
      .def("charge", &charge, "kind"_a, "n_bytes"_a,
           "Account for memory that Python takes; kind as in used_by_kind().")
      .def("refuse_charge", &MemoryLedger::refuse_charge, "n"_a,
           "For tests: refuse the n-th charge from now, whatever is free; 0 refuses none.")
      .def("used_by_kind", &used_by_kind, "Bytes by kind: weights, kv, scratch, ...");
}

}  // namespace quarrel
