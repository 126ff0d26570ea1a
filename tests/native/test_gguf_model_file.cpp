// The GGUF reader without Python, for the sanitizer builds: well-formed files, every truncation and
// every changed byte of one, and files on disk. The full table of malformed cases and their
// messages is in tests/gguf/test_malformed.py.
#include <doctest/doctest.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>
#include <variant>
#include <vector>

#include "core/error.h"
#include "gguf/dequantize.h"
#include "gguf/model_file.h"
#include "test_gguf_builder.h"

namespace {

using namespace quarrel;
using gguf::MetadataArray;
using gguf::ModelFile;
using gguf::testing::Builder;
using gguf::testing::good_file;

std::vector<float> expand(const gguf::TensorInfo& tensor) {
  std::vector<float> values(tensor.n_elements());
  gguf::dequantize_row(tensor.dtype, tensor.data.data(), values.data(), values.size());
  return values;
}

// The message of the error that the bytes give, or "" when they are taken for a model. Everything
// that an accepted file offers is read, so that a sanitizer sees an access out of bounds.
std::string error_of(const std::vector<std::byte>& bytes) {
  try {
    const auto model = ModelFile::parse(bytes, "memory");
    for (const auto& entry : model->metadata().entries()) {
      const auto* array = std::get_if<MetadataArray>(&entry.value);
      if (array != nullptr && array->element_type == gguf::ValueType::kString)
        array->for_each_string([](std::string_view text) { CHECK(std::string(text) == text); });
    }
    for (const auto& tensor : model->tensors()) CHECK(expand(tensor).size() == tensor.n_elements());
  } catch (const ModelFormatError& error) {
    return error.what();
  }
  return "";
}

class TemporaryFolder {
 public:
  TemporaryFolder() {
    std::string pattern = (std::filesystem::temp_directory_path() / "quarrel-XXXXXX").string();
    path_ = mkdtemp(pattern.data());
  }
  ~TemporaryFolder() { std::filesystem::remove_all(path_); }

  std::filesystem::path write(const std::string& name, const std::vector<std::byte>& bytes) const {
    std::ofstream(path_ / name, std::ios::binary)
        .write(reinterpret_cast<const char*>(bytes.data()),
               static_cast<std::streamsize>(bytes.size()));
    return path_ / name;
  }

 private:
  std::filesystem::path path_;
};

std::vector<std::byte> split_part(std::uint16_t number, std::uint16_t count, const char* tensor) {
  Builder file;
  file.header(1, 2).key("split.no", 2).put(number).key("split.count", 2).put(count);
  file.tensor(tensor, {8}, 0, 0).pad();
  for (int i = 0; i < 8; ++i) file.put(static_cast<float>(number));
  return file.bytes();
}

}  // namespace

TEST_CASE("gguf: metadata of a well-formed file") {
  for (const std::uint32_t version : {2u, 3u}) {
    const auto bytes = good_file(version);
    const auto model = ModelFile::parse(bytes, "memory");
    CHECK(model->version() == version);
    CHECK(model->file_bytes() == bytes.size());
    const auto& metadata = model->metadata();
    CHECK(metadata.entries().size() == 6);
    CHECK(std::get<std::string_view>(metadata.find("general.architecture")->value) == "toy");
    CHECK(std::get<std::uint32_t>(metadata.find("general.alignment")->value) == 32);
    CHECK(std::get<float>(metadata.find("half")->value) == 0.5f);
    CHECK(std::get<bool>(metadata.find("yes")->value));
    CHECK(metadata.find("absent") == nullptr);
    std::vector<std::string> tokens;
    std::get<MetadataArray>(metadata.find("tokens")->value)
        .for_each_string([&](std::string_view text) { tokens.emplace_back(text); });
    CHECK(tokens == std::vector<std::string>{"a", "", "bc"});
    const auto& scores = std::get<MetadataArray>(metadata.find("scores")->value);
    CHECK(scores.size == 2);
    CHECK(scores.at<std::int32_t>(0) == -1);
    CHECK(scores.at<std::int32_t>(1) == 7);
  }
}

TEST_CASE("gguf: tensors of a well-formed file") {
  const auto bytes = good_file();
  const auto model = ModelFile::parse(bytes, "memory");
  REQUIRE(model->tensors().size() == 2);
  const auto* a = model->find_tensor("a");
  REQUIRE(a != nullptr);
  CHECK(a->dtype == DType::F32);
  CHECK(a->shape == std::vector<std::uint64_t>{4, 2});
  CHECK(a->data.data() == bytes.data() + a->offset);
  CHECK(expand(*a) == std::vector<float>{0, 1, 2, 3, 4, 5, 6, 7});
  const auto values = expand(*model->find_tensor("b"));
  for (int i = 0; i < 32; ++i)
    CHECK(values[static_cast<std::size_t>(i)] == static_cast<float>(i - 16));
  CHECK(model->find_tensor("c") == nullptr);
}

TEST_CASE("gguf: every truncation is refused and names the file") {
  const auto bytes = good_file();
  for (std::size_t length = 0; length < bytes.size(); ++length) {
    // A vector of its own, so that a read past the end leaves its allocation.
    const std::string error = error_of({bytes.begin(), bytes.begin() + static_cast<long>(length)});
    CHECK(error.starts_with("\"memory\": "));
  }
  CHECK(error_of(bytes).empty());
}

TEST_CASE("gguf: no changed byte leads out of bounds") {
  auto bytes = good_file();
  std::size_t refused = 0;
  for (auto& byte : bytes) {
    const std::byte before = byte;
    for (const int changed : {0x00, 0x01, 0x07, 0x09, 0x20, 0x7f, 0x80, 0xff}) {
      byte = static_cast<std::byte>(changed);
      refused += !error_of(bytes).empty();
    }
    byte = before;
  }
  CHECK(refused > bytes.size());  // headers are a large part of this small file
}

TEST_CASE("gguf: counts and sizes that overflow are refused") {
  constexpr std::uint64_t kHuge = ~std::uint64_t{0};
  const auto refused = [](const Builder& file, std::string_view problem) {
    const std::string error = error_of(file.bytes());
    CHECK_MESSAGE(error.find(problem) != std::string::npos, error);
  };
  refused(Builder().header(0, kHuge), "metadata entries");
  refused(Builder().header(kHuge, 0), "tensors");
  refused(Builder().header(0, 1).key("k", 8).put(kHuge), "string");
  refused(Builder().header(0, 1).key("k", 9).put(8u).put(kHuge), "strings");
  refused(Builder().header(0, 1).key("k", 9).put(12u).put(kHuge / 8 + 2), "array elements");
  refused(Builder().header(1, 0).tensor("t", {kHuge, kHuge}, 0, 0), "more elements than 64 bits");
  refused(Builder().header(1, 0).tensor("t", {kHuge / 4}, 0, 0), "more bytes than 64 bits");
  refused(Builder().header(1, 0).tensor("t", {8}, 0, kHuge - 31).pad(), "data section");
}

TEST_CASE("gguf: maps a file, and unmaps it with the last owner") {
  const TemporaryFolder folder;
  const auto path = folder.write("a.gguf", good_file());
  auto model = ModelFile::open(path);
  CHECK(model->path() == path);
  CHECK(model->n_splits() == 1);
  const auto copy = model;
  model.reset();
  CHECK(expand(*copy->find_tensor("a"))[7] == 7.0f);
  CHECK_THROWS_AS(ModelFile::open(path.parent_path()), ModelFormatError);
  CHECK_THROWS_AS(ModelFile::open(path.parent_path() / "absent"), ModelFormatError);
  CHECK_THROWS_AS(ModelFile::open(folder.write("empty.gguf", {})), ModelFormatError);
}

TEST_CASE("gguf: maps all parts of a split model") {
  const TemporaryFolder folder;
  const auto first = folder.write("m-00001-of-00002.gguf", split_part(0, 2, "a"));
  CHECK_THROWS_AS(ModelFile::open(first), ModelFormatError);
  const auto second = folder.write("m-00002-of-00002.gguf", split_part(1, 2, "b"));
  const auto model = ModelFile::open(first);
  CHECK(model->n_splits() == 2);
  CHECK(model->find_tensor("b")->split == 1);
  CHECK(expand(*model->find_tensor("b"))[0] == 1.0f);
  CHECK_THROWS_AS(ModelFile::open(second), ModelFormatError);
  CHECK(error_of(split_part(0, 2, "a")).find("split model") != std::string::npos);
}
