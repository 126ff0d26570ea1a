// A GGUF model, mapped into memory and checked.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/dtype.h"
#include "gguf/mapped_file.h"
#include "gguf/metadata.h"
#include "gguf/name_index.h"

namespace quarrel::gguf {

struct TensorInfo {
  std::string name;
  DType dtype;
  std::vector<std::uint64_t> shape;  // as in ggml: shape[0] is the length of a row; 0 to 4 entries
  std::span<const std::byte> data;   // in the mapping, aligned to general.alignment, at least 8
  std::uint64_t offset;              // of the data, in bytes from the start of its file
  int split;                         // which file of a split model, from 0

  std::uint64_t n_elements() const;
};

// Metadata and tensors of a model, whether it is one file or split over several. Immutable, so
// it may be shared between threads; views and spans taken from it live as long as it does.
class ModelFile : public std::enable_shared_from_this<ModelFile> {
 public:
  ModelFile(const ModelFile&) = delete;
  ModelFile& operator=(const ModelFile&) = delete;

  // Maps the file at `path`, and for the first part of a split model
  // ("NAME-00001-of-00003.gguf") all its parts. ModelFormatError, which names the file, the key or
  // tensor and the byte offset, for everything that is not a well-formed, little-endian GGUF of
  // version 2 or 3 with supported tensor types. Reads the header only, not the tensors' data.
  static std::shared_ptr<const ModelFile> open(const std::filesystem::path& path);

  // The same for a file that is in memory already; `bytes` is borrowed and must outlive the
  // result, `name` stands for the path in errors. A split model cannot be read this way.
  static std::shared_ptr<const ModelFile> parse(std::span<const std::byte> bytes, std::string name);

  const std::filesystem::path& path() const { return path_; }
  std::uint32_t version() const { return version_; }
  int n_splits() const { return n_splits_; }
  std::uint64_t file_bytes() const { return file_bytes_; }  // of all parts together

  // Of a split model: the first part's.
  const Metadata& metadata() const { return metadata_; }
  // Gives back the mapped pages that were read so far; a later access reads them again.
  void release_pages() const;

  // In the order of the file, parts in theirs.
  std::span<const TensorInfo> tensors() const { return tensors_; }
  // Null when there is no such tensor.
  const TensorInfo* find_tensor(std::string_view name) const;

 private:
  struct Part;
  ModelFile(std::filesystem::path path, std::vector<Part> parts);

  std::filesystem::path path_;
  std::vector<MappedFile> mappings_;
  std::uint32_t version_ = 0;
  int n_splits_ = 1;
  std::uint64_t file_bytes_ = 0;
  Metadata metadata_;
  std::vector<TensorInfo> tensors_;
  NameIndex tensor_index_;
};

}  // namespace quarrel::gguf
