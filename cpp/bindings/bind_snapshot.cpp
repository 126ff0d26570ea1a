// Saving and restoring K and V, as Python sees it.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/string_view.h>
#include <nanobind/stl/vector.h>

#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>
#include <utility>

#include "bindings/arrays.h"
#include "bindings/python_override.h"
#include "cache/snapshot.h"
#include "core/error.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace quarrel {
namespace {

class PythonBlockStore final : public BlockStore {
 public:
  std::string_view layout_id() const override { return "python"; }
  std::size_t block_bytes(std::size_t group) const override {
    return call_python<std::size_t>(base(), "block_bytes", [&] { return nb::make_tuple(group); });
  }
  void read_block(std::size_t group, BlockId block, std::span<std::byte> out) const override {
    const nb::gil_scoped_acquire gil;
    const auto bytes =
        call_python<nb::bytes>(base(), "read_block", [&] { return nb::make_tuple(group, block); });
    if (bytes.size() != out.size())
      throw InvalidArgument("[block_store] expected read_block to return " +
                            std::to_string(out.size()) + " bytes, got " +
                            std::to_string(bytes.size()));
    std::memcpy(out.data(), bytes.data(), out.size());
  }
  void write_block(std::size_t group, BlockId block, std::span<const std::byte> bytes) override {
    call_python<void>(base(), "write_block", [&] {
      return nb::make_tuple(group, block, nb::bytes(bytes.data(), bytes.size()));
    });
  }
  void copy_block(std::size_t group, BlockId from, BlockId to) override {
    call_python<void>(base(), "copy_block", [&] { return nb::make_tuple(group, from, to); });
  }

 private:
  const BlockStore* base() const { return this; }
};

nb::bytes read_block(const BlockStore& store, std::size_t group, BlockId block) {
  std::vector<std::byte> bytes(store.block_bytes(group));
  store.read_block(group, block, bytes);
  return nb::bytes(bytes.data(), bytes.size());
}

void write_block(BlockStore& store, std::size_t group, BlockId block, const nb::bytes& bytes) {
  if (bytes.size() != store.block_bytes(group))
    throw InvalidArgument("[block_store] expected " + std::to_string(store.block_bytes(group)) +
                          " bytes, got " + std::to_string(bytes.size()));
  store.write_block(group, block, {static_cast<const std::byte*>(bytes.data()), bytes.size()});
}

void bind_store(nb::module_& m) {
  nb::class_<BlockStore, PythonBlockStore>(m, "BlockStore",
                                           "The memory behind blocks, as opaque bytes.\n\n"
                                           "A store in Python derives from it and overrides every "
                                           "method; group and block are trusted.")
      .def(nb::init<>())
      .def_prop_ro("layout_id", &BlockStore::layout_id, "How K and V lie inside a block.")
      .def("block_bytes", &BlockStore::block_bytes, "group"_a, "Bytes of one block, all layers.")
      .def("read_block", &read_block, "group"_a, "block"_a)
      .def("write_block", &write_block, "group"_a, "block"_a, "data"_a)
      .def("copy_block", &BlockStore::copy_block, "group"_a, "source"_a, "target"_a);
}

void bind_sequence(nb::module_& m) {
  nb::class_<Restored>(m, "Restored", "A sequence that came back, or the reason why it did not.")
      .def_ro("reservation", &Restored::reservation)
      .def_prop_ro("sequence",
                   [](const Restored& r) { return static_cast<std::int64_t>(r.sequence); });
  nb::class_<SequenceSnapshot>(m, "SequenceSnapshot",
                               "K and V of one text, outside the cache, charged to the ledger as "
                               "snapshots for as long as it lives.")
      .def(
          "__init__",
          [](SequenceSnapshot* self, KVCache& cache, BlockStore& store, std::int64_t sequence,
             const Vector<TokenId>& tokens, MemoryLedger& ledger, bool whole) {
            new (self) SequenceSnapshot(cache, store, SequenceId{sequence}, as_span(tokens), ledger,
                                        whole);
          },
          "cache"_a, "store"_a, "sequence"_a, "tokens"_a, "ledger"_a, "whole"_a = false,
          "Of a live sequence; tokens: its committed ones, int32. whole: with what the cache "
          "still\n"
          "has of it outside its windows, so that a resume can go back.")
      .def_static(
          "load",
          [](const std::string& path, const KVCache& cache, const BlockStore& store,
             const SnapshotIdentity& identity, MemoryLedger& ledger) {
            return SequenceSnapshot(path, cache, store, identity, ledger);
          },
          "path"_a, "cache"_a, "store"_a, "identity"_a, "ledger"_a)
      .def("save", &SequenceSnapshot::save, "path"_a, "identity"_a,
           nb::call_guard<nb::gil_scoped_release>())
      .def("restore", &SequenceSnapshot::restore, "cache"_a, "store"_a, "max_tokens"_a,
           "A new sequence with this text, which will never hold more than max_tokens.")
      .def_prop_ro("n_bytes", &SequenceSnapshot::n_bytes)
      .def_prop_ro(
          "tokens",
          [](nb::handle self) {
            const auto tokens = nb::cast<const SequenceSnapshot&>(self).tokens();
            const std::size_t n = tokens.size();
            return nb::ndarray<nb::numpy, const TokenId, nb::ndim<1>>(tokens.data(), {n}, self);
          },
          "The text, int32.");
}

}  // namespace

void bind_snapshot(nb::module_& m) {
  bind_store(m);
  nb::class_<SnapshotFigures>(m, "SnapshotFigures", "What was saved, or taken from a file.")
      .def_ro("n_blocks", &SnapshotFigures::n_blocks, "Of all layer groups.")
      .def_ro("n_tokens", &SnapshotFigures::n_tokens, "Each shared beginning counts once.")
      .def_ro("n_bytes", &SnapshotFigures::n_bytes, "Size of the file.");
  bind_sequence(m);
  m.def("save_prefix_cache",
        nb::overload_cast<const std::string&, KVCache&, BlockStore&, const SnapshotIdentity&>(
            &save_prefix_cache),
        "path"_a, "cache"_a, "store"_a, "identity"_a, nb::call_guard<nb::gil_scoped_release>(),
        "Write all that later prompts could find. The file appears whole or not at all.");
  m.def("load_prefix_cache",
        nb::overload_cast<const std::string&, KVCache&, BlockStore&, const SnapshotIdentity&>(
            &load_prefix_cache),
        "path"_a, "cache"_a, "store"_a, "identity"_a, nb::call_guard<nb::gil_scoped_release>(),
        "Take what fits. A file that is damaged or was saved otherwise is refused (SnapshotError)\n"
        "before anything changes.");
}

}  // namespace quarrel
