// Feeds arbitrary bytes to the GGUF reader and touches everything that a file it accepts gives.
// run_gguf.sh builds and runs this.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <span>
#include <string_view>
#include <type_traits>
#include <variant>
#include <vector>

#include "core/error.h"
#include "gguf/dequantize.h"
#include "gguf/model_file.h"

namespace {

using namespace quarrel;

// A failed expectation is a crash, which the fuzzer reports with its input.
void require(bool holds) {
  if (!holds) std::abort();
}

// Results go here so that no read is optimised away.
volatile unsigned char sink;

void touch(std::span<const std::byte> bytes) {
  unsigned char sum = 0;
  for (const std::byte byte : bytes) sum ^= static_cast<unsigned char>(byte);
  sink = sum;
}

void touch_value(const gguf::MetadataValue& value) {
  if (const auto* text = std::get_if<std::string_view>(&value))
    touch(std::as_bytes(std::span(*text)));
  const auto* array = std::get_if<gguf::MetadataArray>(&value);
  if (array == nullptr) return;
  touch(array->bytes);
  if (array->element_type != gguf::ValueType::kString) return;
  std::uint64_t n_strings = 0;
  array->for_each_string([&n_strings](std::string_view text) {
    touch(std::as_bytes(std::span(text)));
    ++n_strings;
  });
  require(n_strings == array->size);
}

void touch_tensor(const gguf::TensorInfo& tensor) {
  touch(tensor.data);
  // The data lies in the file, so this allocates at most 16 bytes for each byte of input.
  std::vector<float> values(tensor.n_elements());
  require(row_bytes(tensor.dtype, values.size()) == tensor.data.size());
  // A product that wrapped around would be smaller than one of its factors.
  for (const std::uint64_t length : tensor.shape) require(length <= values.size());
  gguf::dequantize_row(tensor.dtype, tensor.data.data(), values.data(), values.size());
  touch(std::as_bytes(std::span(values)));
  if (values.size() % 32 == 0) {
    std::vector<std::byte> packed(row_bytes(DType::Q8_0, values.size()));
    gguf::quantize_row(DType::Q8_0, values.data(), packed.data(), values.size());
    gguf::quantize_row(DType::Q4_0, values.data(), packed.data(), values.size());
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  try {
    const auto model = gguf::ModelFile::parse(std::as_bytes(std::span(data, size)), "input");
    for (const auto& entry : model->metadata().entries()) {
      touch_value(entry.value);
      require(model->metadata().find(entry.key) == &entry);
    }
    for (const auto& tensor : model->tensors()) {
      touch_tensor(tensor);
      require(model->find_tensor(tensor.name) == &tensor);
    }
  } catch (const ModelFormatError& error) {
    require(std::string_view(error.what()).starts_with("\"input\": "));
  }
  return 0;
}
