// The GGUF reader and the block formats, as Python sees them.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/filesystem.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/string_view.h>

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <type_traits>
#include <utility>
#include <variant>
#include <vector>

#include "bindings/arrays.h"
#include "bindings/text.h"
#include "core/error.h"
#include "core/strings.h"
#include "gguf/dequantize.h"
#include "gguf/model_file.h"
#include "gguf/printable.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace quarrel {

// Where a model lies: a path whose annotation satisfies a strict type checker, which nanobind's own
// for std::filesystem::path, the bare os.PathLike, does not.
struct PathArgument {
  std::filesystem::path path;
};

}  // namespace quarrel

template <>
struct nanobind::detail::type_caster<quarrel::PathArgument> {
  NB_TYPE_CASTER(quarrel::PathArgument, const_name("str | os.PathLike[str]"))

  bool from_python(handle source, std::uint8_t flags, cleanup_list* cleanup) noexcept {
    make_caster<std::filesystem::path> path;
    if (!path.from_python(source, flags, cleanup)) return false;
    value.path = std::move(path.value);
    return true;
  }
};

namespace quarrel {
namespace {

using gguf::MetadataArray;
using gguf::MetadataValue;
using gguf::ModelFile;
using gguf::TensorInfo;
using gguf::ValueType;

// Unlike a Vector, also what merely has the buffer protocol: bytes.
using Bytes = nb::ndarray<const std::uint8_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

// An array of this shape that owns `values`.
template <class T, class Framework = nb::numpy>
nb::object owning_array(std::unique_ptr<T[]> values, const std::vector<std::size_t>& shape) {
  T* data = values.get();
  nb::capsule owner(data, [](void* p) noexcept { delete[] static_cast<T*>(p); });
  values.release();
  return nb::cast(nb::ndarray<Framework, T>(data, shape.size(), shape.data(), owner));
}

template <class T, class Framework>
nb::object numeric_array(const MetadataArray& array) {
  auto values = std::make_unique_for_overwrite<T[]>(array.size);
  for (std::uint64_t i = 0; i < array.size; ++i) values[i] = array.at<T>(i);
  return owning_array<T, Framework>(std::move(values), {array.size});
}

nb::object string_list(const MetadataArray& array) {
  nb::list list;
  array.for_each_string([&list](std::string_view text) { list.append(decode(text)); });
  return list;
}

template <class Framework>
nb::object array_to_python(const MetadataArray& array) {
  switch (array.element_type) {
    case ValueType::kUint8:
      return numeric_array<std::uint8_t, Framework>(array);
    case ValueType::kInt8:
      return numeric_array<std::int8_t, Framework>(array);
    case ValueType::kUint16:
      return numeric_array<std::uint16_t, Framework>(array);
    case ValueType::kInt16:
      return numeric_array<std::int16_t, Framework>(array);
    case ValueType::kUint32:
      return numeric_array<std::uint32_t, Framework>(array);
    case ValueType::kInt32:
      return numeric_array<std::int32_t, Framework>(array);
    case ValueType::kFloat32:
      return numeric_array<float, Framework>(array);
    case ValueType::kBool:
      return numeric_array<bool, Framework>(array);
    case ValueType::kUint64:
      return numeric_array<std::uint64_t, Framework>(array);
    case ValueType::kInt64:
      return numeric_array<std::int64_t, Framework>(array);
    case ValueType::kFloat64:
      return numeric_array<double, Framework>(array);
    case ValueType::kString:
    case ValueType::kArray:
      break;
  }
  return string_list(array);
}

nb::object to_python(const MetadataValue& value) {
  return std::visit(
      [](const auto& v) -> nb::object {
        using T = std::remove_cvref_t<decltype(v)>;
        if constexpr (std::is_same_v<T, MetadataArray>) {
          return array_to_python<nb::numpy>(v);
        } else if constexpr (std::is_same_v<T, std::string_view>) {
          return decode(v);
        } else if constexpr (std::is_integral_v<T> && !std::is_same_v<T, bool>) {
          return nb::int_(v);  // an 8-bit integer is a number here, not a character
        } else {
          return nb::cast(v);
        }
      },
      value);
}

nb::object metadata_keys(const ModelFile& file) {
  nb::list keys;
  for (const auto& entry : file.metadata().entries()) keys.append(decode(entry.key));
  return keys;
}

nb::object metadata_dict(const ModelFile& file) {
  nb::dict dict;
  for (const auto& entry : file.metadata().entries())
    dict[decode(entry.key)] = to_python(entry.value);
  return dict;
}

nb::object metadata_get(const ModelFile& file, nb::str key, nb::object fallback) {
  const auto* entry = file.metadata().find(encode(key));
  return entry == nullptr ? fallback : to_python(entry->value);
}

const MetadataArray* array_named(const ModelFile& file, nb::str key) {
  const auto* entry = file.metadata().find(encode(key));
  return entry == nullptr ? nullptr : std::get_if<MetadataArray>(&entry->value);
}

std::optional<Strings> metadata_strings(const ModelFile& file, nb::str key) {
  const MetadataArray* array = array_named(file, key);
  if (array == nullptr || array->element_type != ValueType::kString) return std::nullopt;
  Strings strings;
  strings.reserve(array->size, array->bytes.size() - array->size * sizeof(std::uint64_t));
  array->for_each_string([&strings](std::string_view text) { strings.push_back(text); });
  return strings;
}

nb::object metadata_numbers(const ModelFile& file, nb::str key) {
  const MetadataArray* array = array_named(file, key);
  if (array == nullptr || array->element_type == ValueType::kString) return nb::none();
  return array_to_python<nb::memview>(*array);
}

nb::object tensor_list(nb::handle self) {
  nb::list tensors;
  for (const TensorInfo& tensor : nb::cast<const ModelFile&>(self).tensors())
    tensors.append(nb::cast(tensor, nb::rv_policy::reference_internal, self));
  return tensors;
}

const TensorInfo& tensor_named(const ModelFile& file, nb::handle name) {
  const std::string encoded = encode(name);
  const TensorInfo* tensor = file.find_tensor(encoded);
  if (tensor == nullptr)
    throw nb::key_error(("no tensor " + gguf::in_quotes(encoded) + " in the model").c_str());
  return *tensor;
}

nb::object shape_tuple(const TensorInfo& tensor) {
  nb::list lengths;
  for (const std::uint64_t length : tensor.shape) lengths.append(length);
  return nb::tuple(lengths);
}

nb::object tensor_bytes(nb::handle self, nb::str name) {
  const auto data = tensor_named(nb::cast<const ModelFile&>(self), name).data;
  const std::size_t size = data.size();
  return nb::cast(nb::ndarray<nb::numpy, const std::uint8_t>(data.data(), 1, &size, self));
}

nb::object dequantize_tensor(const ModelFile& file, nb::str name) {
  const TensorInfo& tensor = tensor_named(file, name);
  const std::size_t n_elements = tensor.n_elements();
  auto values = std::make_unique_for_overwrite<float[]>(n_elements);
  {
    nb::gil_scoped_release unlocked;
    gguf::dequantize_row(tensor.dtype, tensor.data.data(), values.get(), n_elements);
  }
  return owning_array(std::move(values),
                      std::vector<std::size_t>(tensor.shape.rbegin(), tensor.shape.rend()));
}

DType parse_dtype(std::string_view op, std::string_view name) {
  if (const auto dtype = dtype_from_name(name)) return *dtype;
  std::string known;
  for (const auto& t : all_dtypes()) known.append(" ").append(t.name);
  throw InvalidArgument("[" + std::string(op) + "] expected a dtype among" + known + ", got " +
                        std::string(name));
}

nb::object dequantize(std::string_view dtype_name, Bytes data, std::size_t n_elements) {
  const DType dtype = parse_dtype("dequantize", dtype_name);
  const auto& block = traits(dtype);
  // Divided, not multiplied: a huge count must not wrap around to the right size.
  if (n_elements % block.block_elements != 0 || data.size() % block.block_bytes != 0 ||
      data.size() / block.block_bytes != n_elements / block.block_elements)
    throw InvalidArgument("[dequantize] expected " + std::to_string(block.block_bytes) +
                          " bytes for each " + std::to_string(block.block_elements) +
                          " elements of " + std::string(block.name) + ", got " +
                          std::to_string(data.size()) + " bytes for " + std::to_string(n_elements) +
                          " elements");
  auto values = std::make_unique_for_overwrite<float[]>(n_elements);
  const auto* bytes = reinterpret_cast<const std::byte*>(data.data());
  gguf::dequantize_row(dtype, bytes, values.get(), n_elements);
  return owning_array(std::move(values), {n_elements});
}

nb::object quantize(std::string_view dtype_name, Vector<float> values) {
  const DType dtype = parse_dtype("quantize", dtype_name);
  const auto& block = traits(dtype);
  const std::size_t n_blocks = values.size() / block.block_elements;
  auto bytes = std::make_unique_for_overwrite<std::uint8_t[]>(n_blocks * block.block_bytes);
  gguf::quantize_row(dtype, values.data(), reinterpret_cast<std::byte*>(bytes.get()),
                     values.size());
  return owning_array(std::move(bytes), {n_blocks * block.block_bytes});
}

void bind_tensor_info(nb::module_& m) {
  nb::class_<TensorInfo>(m, "TensorInfo", "A tensor of a GGUFFile: where it lies and how.")
      .def_prop_ro(
          "name", [](const TensorInfo& tensor) { return decode(tensor.name); },
          nb::sig("def name(self) -> str"))
      .def_prop_ro(
          "dtype", [](const TensorInfo& tensor) { return std::string(traits(tensor.dtype).name); },
          "Upper case, as in GGUF tools: \"Q4_1\".")
      .def_prop_ro("shape", shape_tuple, nb::sig("def shape(self) -> tuple[int, ...]"),
                   "In ggml order: the length of a row first.")
      .def_prop_ro("n_elements", &TensorInfo::n_elements)
      .def_prop_ro("n_bytes", [](const TensorInfo& tensor) { return tensor.data.size(); })
      .def_ro("offset", &TensorInfo::offset, "Of the data, in bytes from the start of its file.")
      .def_ro("split", &TensorInfo::split, "Which file of a split model, from 0.");
}

void bind_model_file(nb::module_& m) {
  nb::class_<ModelFile>(
      m, "GGUFFile",
      "A GGUF model (version 2 or 3, one file or split), memory-mapped and checked.\n\n"
      "Raises ModelFormatError, naming file, key or tensor and byte offset, for anything else.")
      .def(nb::new_([](const PathArgument& argument) {
             nb::gil_scoped_release unlocked;
             return ModelFile::open(argument.path);
           }),
           "path"_a)
      .def_prop_ro(
          "path", [](const ModelFile& file) { return decode(file.path().native()); },
          nb::sig("def path(self) -> str"))
      .def_prop_ro("version", &ModelFile::version)
      .def_prop_ro("n_splits", &ModelFile::n_splits)
      .def_prop_ro("file_bytes", &ModelFile::file_bytes, "Size of all parts together.")
      .def_prop_ro("metadata", metadata_dict, nb::sig("def metadata(self) -> dict[str, object]"),
                   "All keys, converted anew at each access: int, float, bool, str, list of str, "
                   "or a numpy array. Use `get` for one key.")
      .def("get", metadata_get, "key"_a, "default"_a = nb::none(),
           nb::sig("def get(self, key: str, default: object = None) -> object"),
           "The value of one key, or `default`.")
      .def("strings", metadata_strings, "key"_a,
           "The array of strings under a key, packed; None where there is none.")
      .def("numbers", metadata_numbers, "key"_a,
           nb::sig("def numbers(self, key: str) -> memoryview | None"),
           "The array of numbers under a key, without NumPy; None where there is none.")
      .def("keys", metadata_keys, nb::sig("def keys(self) -> list[str]"),
           "Names of the metadata, in the order of the file.")
      .def("release_pages", &ModelFile::release_pages,
           "Give back the mapped pages that were read so far; a later access reads them again.")
      .def_prop_ro("tensors", tensor_list, nb::sig("def tensors(self) -> list[TensorInfo]"),
                   "In the order of the file.")
      .def("tensor_bytes", tensor_bytes, "name"_a,
           nb::sig("def tensor_bytes(self, name: str) -> "
                   "numpy.typing.NDArray[numpy.uint8]"),
           "The raw data as a read-only view that keeps the file mapped. Raises KeyError.")
      .def("dequantize", dequantize_tensor, "name"_a,
           nb::sig("def dequantize(self, name: str) -> "
                   "numpy.typing.NDArray[numpy.float32]"),
           "The tensor as float32 in numpy order, rows last. Raises KeyError.");
}

}  // namespace

void bind_gguf(nb::module_& m) {
  bind_tensor_info(m);
  bind_model_file(m);
  m.def("dequantize", dequantize, "dtype"_a, "data"_a, "n_elements"_a,
        nb::sig("def dequantize(dtype: str, data: bytes | numpy.typing.NDArray[numpy.uint8], "
                "n_elements: int) -> numpy.typing.NDArray[numpy.float32]"),
        "Expands `n_elements` elements of packed `data` to float32 [n_elements].");
  m.def("quantize", quantize, "dtype"_a, "values"_a,
        nb::sig("def quantize(dtype: str, values: numpy.typing.NDArray[numpy.float32]) -> "
                "numpy.typing.NDArray[numpy.uint8]"),
        "Packs float32 [n_elements] as F32, F16, BF16, Q8_0 or Q4_0: uint8 [n_bytes].");
}

}  // namespace quarrel
