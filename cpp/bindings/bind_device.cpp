// Devices and the runner of steps, as Python sees them.
#include <nanobind/nanobind.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/string_view.h>
#include <nanobind/stl/vector.h>

#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "bindings/arrays.h"
#include "core/error.h"
#include "cpu/cpu_device.h"
#include "cpu/isa.h"
#include "program/device.h"
#include "program/step_runner.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace quarrel {
namespace {

using BestIds = nb::ndarray<nb::memview, const std::uint32_t, nb::ndim<2>>;

constexpr StepLimits kDefaults{0};

static_assert(sizeof(SequenceId) == sizeof(std::int64_t));

DType dtype_named(const std::string& name) {
  const auto dtype = dtype_from_name(name);
  if (!dtype) throw InvalidArgument("[kv_cache] expected an element type, got " + name);
  return *dtype;
}

std::shared_ptr<KVStorage> allocate_kv(Device& device, const Program& program,
                                       std::size_t block_size, std::vector<std::size_t> n_blocks,
                                       const std::string& k_dtype, const std::string& v_dtype,
                                       MemoryLedger& ledger) {
  return device.allocate_kv(
      program, {block_size, std::move(n_blocks), dtype_named(k_dtype), dtype_named(v_dtype)},
      ledger);
}

std::shared_ptr<Executable> compile(Device& device, std::shared_ptr<Program> program,
                                    std::size_t max_tokens, std::shared_ptr<MemoryLedger> ledger,
                                    std::size_t max_selected_rows, std::size_t max_context_tokens) {
  return device.compile(std::move(program), {max_tokens, max_selected_rows, max_context_tokens},
                        std::move(ledger));
}

double stage_seconds(const Executable& executable, const std::string& prefix) {
  double seconds = 0.0;
  for (const StageTime& stage : executable.stage_times())
    if (stage.name.starts_with(prefix)) seconds += stage.seconds;
  return seconds;
}

std::pair<std::size_t, std::size_t> memory_needs(const Device& device, const Program& program,
                                                 std::size_t max_tokens,
                                                 std::size_t max_selected_rows,
                                                 std::size_t max_context_tokens) {
  const MemoryNeeds needs =
      device.memory_needs(program, {max_tokens, max_selected_rows, max_context_tokens});
  return {needs.weight_bytes, needs.scratch_bytes};
}

void make_step_runner(StepRunner* self, std::shared_ptr<Executable> executable,
                      std::shared_ptr<KVStorage> storage, std::shared_ptr<KVCache> cache,
                      std::size_t vocab_size,
                      const std::vector<std::pair<std::size_t, std::size_t>>& masks) {
  std::vector<GroupSpec> specs;
  for (const auto& [window, sinks] : masks) specs.push_back({window, sinks});
  new (self) StepRunner(std::move(executable), std::move(storage), std::move(cache), vocab_size,
                        std::move(specs));
}

// Framework: what the logits are to Python.
template <class Framework>
nb::ndarray<Framework, const float, nb::ndim<2>> run(nb::handle self,
                                                     const Vector<std::int64_t>& sequences,
                                                     const Vector<std::int32_t>& query_start_loc,
                                                     const Vector<TokenId>& token_ids,
                                                     const Vector<std::int32_t>& selected_rows,
                                                     std::size_t n_decodes, std::size_t n_best) {
  auto& runner = nb::cast<StepRunner&>(self);
  const StepRequest request{
      {reinterpret_cast<const SequenceId*>(sequences.data()), sequences.size()},
      as_span(query_start_loc),
      as_span(token_ids),
      as_span(selected_rows),
      n_decodes,
      n_best};
  std::span<const float> logits;
  {
    const nb::gil_scoped_release release;
    logits = runner.run(request);
  }
  return {logits.data(), {selected_rows.size(), runner.vocab_size()}, self};
}

std::optional<BestIds> best_ids(nb::handle self) {
  const BestTokens best = nb::cast<StepRunner&>(self).best_tokens();
  if (best.k == 0) return std::nullopt;
  return BestIds(best.ids.data(), {best.ids.size() / best.k, best.k}, self);
}

}  // namespace

void bind_device(nb::module_& m) {
  m.def("available_isas", &cpu::available_isas,
        "Instruction sets that the CPU device can use here, best first.");
  nb::class_<KVStorage, BlockStore>(m, "KVStorage", "The memory behind the cache's blocks.")
      .def_prop_ro("n_bytes", &KVStorage::n_bytes);
  nb::class_<StageTime>(m, "StageTime", "Time that one kind of work took, over all steps.")
      .def_ro("name", &StageTime::name)
      .def_prop_ro(
          "phase",
          [](const StageTime& t) { return t.phase == StepPhase::Prefill ? "prefill" : "decode"; })
      .def_ro("n_runs", &StageTime::n_runs)
      .def_ro("seconds", &StageTime::seconds);
  nb::class_<Executable>(m, "Executable", "A program made ready for a device.")
      .def("set_profiling", &Executable::set_profiling, "on"_a,
           "Time every stage from now on, counted from zero.")
      .def("stage_times", &Executable::stage_times,
           "Times since profiling was switched on, in the order of the stages.")
      .def("stage_seconds", &stage_seconds, "prefix"_a,
           "Seconds of all stages whose names start so, since profiling was switched on.")
      .def("set_trace", &Executable::set_trace, "log"_a.none(),
           "While profiling, what runs when goes to this SpanLog, with a track for each of\n"
           "track_names; None: nowhere. Between two steps.")
      .def_prop_ro("track_names", &Executable::track_names,
                   "What the tracks of a trace are; the first is the engine's thread.")
      .def("shrink", &Executable::shrink,
           "Give back what steps with more selected rows than planned have taken.");
  nb::class_<Device>(m, "Device", "A compute device.")
      .def_prop_ro("name", &Device::name)
      .def("compile", &compile, "program"_a, "max_tokens"_a, "ledger"_a,
           "max_selected_rows"_a = kDefaults.max_selected_rows,
           "max_context_tokens"_a = kDefaults.max_context_tokens,
           nb::call_guard<nb::gil_scoped_release>(),
           "max_tokens: the largest number of tokens in a step; max_selected_rows: of rows whose\n"
           "logits it wants; max_context_tokens: of tokens in a sequence. A step may exceed the\n"
           "last two, at the price of memory and of speed.")
      .def("memory_needs", &memory_needs, "program"_a, "max_tokens"_a,
           "max_selected_rows"_a = kDefaults.max_selected_rows,
           "max_context_tokens"_a = kDefaults.max_context_tokens,
           "Bytes of weights and of scratch that compile() would charge, without reading weights.")
      .def("allocate_kv", &allocate_kv, "program"_a, "block_size"_a, "n_blocks"_a, "k_dtype"_a,
           "v_dtype"_a, "ledger"_a, "n_blocks: one number per layer group.")
      .def(
          "kv_block_bytes",
          [](const Device& d, const Program& program, std::size_t block_size,
             const std::string& k_dtype, const std::string& v_dtype) {
            return d.kv_block_bytes(program, block_size, dtype_named(k_dtype),
                                    dtype_named(v_dtype));
          },
          "program"_a, "block_size"_a, "k_dtype"_a, "v_dtype"_a,
          "Bytes of one block of each layer group.");
  nb::class_<cpu::CpuDevice, Device>(m, "CpuDevice", "The CPU.")
      .def(nb::init<int, std::string_view>(), "n_threads"_a, "isa"_a = "auto")
      .def_prop_ro("isa", &cpu::CpuDevice::isa)
      .def_prop_ro("n_threads", &cpu::CpuDevice::n_threads);
  nb::class_<StepRunner>(m, "StepRunner", "Runs steps of a ragged batch.")
      .def("__init__", &make_step_runner, "executable"_a, "storage"_a, "cache"_a, "vocab_size"_a,
           "masks"_a = std::vector<std::pair<std::size_t, std::size_t>>(),
           "masks: (window, sinks) that attention keeps to in each layer group, within what the\n"
           "cache keeps; none: all that it keeps.")
      .def(
          "run", &run<nb::numpy>, "sequences"_a, "query_start_loc"_a, "token_ids"_a,
          "selected_rows"_a, "n_decodes"_a = 0, "n_best"_a = 0,
          "Logits [n_selected, vocab_size] float32, a view that is valid until the next run.\n\n"
          "sequences: [n_seqs] int64, query_start_loc: [n_seqs + 1] int32, token_ids: [n_tokens]\n"
          "int32 that follow each sequence's committed tokens, selected_rows: [n_selected] int32.\n"
          "n_decodes: the first sequences decode, with one token each; the others prefill.\n"
          "n_best: how many tokens with the largest logits best_ids() is to name.")
      .def("run_view", &run<nb::memview>, "sequences"_a, "query_start_loc"_a, "token_ids"_a,
           "selected_rows"_a, "n_decodes"_a, "n_best"_a,
           nb::sig("def run_view(self, sequences: array.array[int], query_start_loc: "
                   "array.array[int], token_ids: memoryview[int], selected_rows: array.array[int], "
                   "n_decodes: int, n_best: int) -> memoryview"),
           "As run(), without NumPy.")
      .def("best_ids", &best_ids, nb::sig("def best_ids(self) -> memoryview | None"),
           "The tokens with the n_best largest logits of each selected row of the last run, in\n"
           "their order, [n_selected, n_best] uint32; None where the device has not looked. Valid\n"
           "until the next run.");
}

}  // namespace quarrel
