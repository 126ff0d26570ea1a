// The recorder of forward passes, as the model files see it.
#include <nanobind/nanobind.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <memory>
#include <string>

#include "core/error.h"
#include "gguf/model_file.h"
#include "program/program.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace quarrel {
namespace {

WeightId add_weight(ProgramBuilder& builder, const gguf::ModelFile& file, const std::string& name) {
  const gguf::TensorInfo* tensor = file.find_tensor(name);
  if (tensor == nullptr)
    throw ModelFormatError(file.path().string() + ": tensor " + name +
                           " is missing; the file is incomplete or of another architecture");
  if (tensor->shape.empty() || tensor->shape.size() > 2)
    throw ModelFormatError(file.path().string() + ": tensor " + name +
                           " must have one or two dimensions");
  const std::size_t n_rows = tensor->shape.size() == 2 ? tensor->shape[1] : 1;
  return builder.weight({tensor->name, tensor->dtype, n_rows, tensor->shape[0], tensor->data,
                         file.shared_from_this(), true});
}

void bind_handles(nb::module_& m) {
  nb::class_<ValueId>(m, "Value", "A matrix of activations: one row per token.");
  nb::class_<WeightId>(m, "Weight", "A tensor of the model file.");
  nb::class_<RopeId>(m, "RopeTable", "A rotary embedding's frequencies.");
  nb::class_<KVLayer>(m, "KVLayer", "What one attention layer keeps in the KV cache.")
      .def(nb::init<std::size_t, std::size_t, std::size_t>(), "n_kv_heads"_a, "head_dim"_a,
           "window"_a = 0)
      .def_ro("n_kv_heads", &KVLayer::n_kv_heads)
      .def_ro("head_dim", &KVLayer::head_dim)
      .def_ro("window", &KVLayer::window);
  nb::class_<LayerGroup>(m, "LayerGroup", "Layers with the same attention span.")
      .def_ro("window", &LayerGroup::window)
      .def_ro("layers", &LayerGroup::layers);
  nb::class_<Program>(m, "Program", "A recorded forward pass.")
      .def_prop_ro("n_ops", [](const Program& p) { return p.ops.size(); })
      .def_prop_ro("vocab_size", [](const Program& p) { return p.value(p.logits).width; })
      .def_prop_ro("weight_bytes", &Program::weight_bytes)
      .def_ro("kv_layers", &Program::kv_layers)
      .def_ro("groups", &Program::groups);
}

}  // namespace

void bind_program(nb::module_& m) {
  bind_handles(m);
  nb::class_<ProgramBuilder>(m, "ProgramBuilder",
                             "Records a forward pass, op by op; see cpp/program/ops.h.")
      .def(nb::init<std::vector<KVLayer>>(), "kv_layers"_a)
      .def("weight", &add_weight, "file"_a, "name"_a)
      .def("rope_table", &ProgramBuilder::rope_table, "n_rotated"_a, "base"_a, "interleaved"_a,
           "linear_scale"_a = 1.0, "frequency_factors"_a = std::vector<float>())
      .def("embedding", &ProgramBuilder::embedding, "table"_a, "scale"_a = 1.0f)
      .def("rms_norm", &ProgramBuilder::rms_norm, "x"_a, "weight"_a, "eps"_a)
      .def("linear", &ProgramBuilder::linear, "x"_a, "weight"_a, "bias"_a = nb::none())
      .def("rope", &ProgramBuilder::rope, "x"_a, "table"_a, "head_dim"_a)
      .def("kv_write", &ProgramBuilder::kv_write, "layer"_a, "k"_a, "v"_a)
      .def("attention", &ProgramBuilder::attention, "layer"_a, "q"_a, "n_heads"_a, "scale"_a,
           "softcap"_a = 0.0f)
      .def("silu_mul", &ProgramBuilder::silu_mul, "gate"_a, "up"_a)
      .def("gelu_mul", &ProgramBuilder::gelu_mul, "gate"_a, "up"_a)
      .def("add", &ProgramBuilder::add, "a"_a, "b"_a, "scale"_a = 1.0f)
      .def("scale", &ProgramBuilder::scale, "x"_a, "factor"_a)
      .def("softcap", &ProgramBuilder::softcap, "x"_a, "cap"_a)
      .def("select_rows", &ProgramBuilder::select_rows, "x"_a)
      .def(
          "finish",
          [](ProgramBuilder& b, ValueId logits) {
            return std::const_pointer_cast<Program>(b.finish(logits));
          },
          "logits"_a);
}

}  // namespace quarrel
