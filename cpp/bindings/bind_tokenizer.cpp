// Vocabularies and merging, as Python sees them.
#include <nanobind/nanobind.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "bindings/arrays.h"
#include "bindings/text.h"
#include "core/strings.h"
#include "tokenizer/byte_pair.h"
#include "tokenizer/sentencepiece.h"
#include "tokenizer/vocabulary.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace quarrel {
namespace {

Strings strings_of(nb::handle texts) {
  Strings strings;
  for (const nb::handle text : texts) strings.push_back(encode(text));
  return strings;
}

std::size_t checked(std::size_t index, std::size_t size) {
  if (index >= size) throw nb::index_error();
  return index;
}

void make_vocabulary(Vocabulary* self, const Strings& pieces, const Vector<std::int32_t>& types) {
  std::vector<std::uint8_t> narrow(types.size());
  // Numbers that the format does not know are all the same.
  std::ranges::transform(as_span(types), narrow.begin(), [](std::int32_t type) {
    return static_cast<std::uint8_t>(type >= 0 && type < 256 ? type : 0);
  });
  new (self) Vocabulary(pieces, std::move(narrow));
}

std::vector<std::int32_t> ids_of_types(const Vocabulary& vocabulary,
                                       const std::vector<int>& types) {
  std::vector<std::int32_t> ids;
  for (std::size_t id = 0; id < vocabulary.size(); ++id)
    if (std::ranges::find(types, vocabulary.type(id)) != types.end())
      ids.push_back(static_cast<std::int32_t>(id));
  return ids;
}

void bind_vocabulary(nb::module_& m) {
  nb::class_<Strings>(m, "Strings", "An array of short texts, packed.")
      .def(
          "__init__",
          [](Strings* self, nb::handle texts) { new (self) Strings(strings_of(texts)); }, "texts"_a,
          nb::sig("def __init__(self, texts: collections.abc.Iterable[str]) -> None"))
      .def("__len__", &Strings::size)
      .def(
          "__getitem__",
          [](const Strings& s, std::size_t i) { return decode(s[checked(i, s.size())]); },
          nb::sig("def __getitem__(self, index: int) -> str"));
  nb::class_<Vocabulary>(m, "Vocabulary", "The pieces of a tokenizer, by id and by text.")
      .def("__init__", &make_vocabulary, "pieces"_a, "types"_a,
           nb::sig("def __init__(self, pieces: Strings, types: array.array[int]) -> None"),
           "types: [n_pieces] int32. An empty piece I, a padding row, is called [EMPTY_I].")
      .def("__len__", &Vocabulary::size)
      .def(
          "piece",
          [](const Vocabulary& v, std::size_t id) {
            return decode(v.piece(checked(id, v.size())));
          },
          "token_id"_a, nb::sig("def piece(self, token_id: int) -> str"))
      .def(
          "find", [](const Vocabulary& v, nb::str piece) { return v.find(encode(piece)); },
          "piece"_a, "The id of a piece, None where there is none.")
      .def_prop_ro("duplicate", &Vocabulary::duplicate,
                   "The first id whose piece comes again, None where all differ.")
      .def(
          "type",
          [](const Vocabulary& v, std::size_t id) { return int{v.type(checked(id, v.size()))}; },
          "token_id"_a)
      .def(
          "set_type",
          [](Vocabulary& v, std::size_t id, std::uint8_t type) {
            v.set_type(checked(id, v.size()), type);
          },
          "token_id"_a, "type"_a)
      .def("ids_of_types", &ids_of_types, "types"_a,
           "Ids of all tokens of these types, ascending.");
}

}  // namespace

void bind_tokenizer(nb::module_& m) {
  bind_vocabulary(m);
  nb::class_<SentencePiece>(m, "SentencePiece",
                            "Merges neighbours while they make a token, best score first; falls "
                            "back to byte tokens.")
      .def(
          "__init__",
          [](SentencePiece* self, std::shared_ptr<Vocabulary> vocabulary,
             const Vector<float>& scores, std::optional<std::int32_t> unknown) {
            const auto values = as_span(scores);
            new (self) SentencePiece(std::move(vocabulary),
                                     std::vector<float>(values.begin(), values.end()), unknown);
          },
          "vocabulary"_a, "scores"_a, "unknown"_a.none(),
          nb::sig("def __init__(self, vocabulary: Vocabulary, scores: array.array[float], "
                  "unknown: int | None) -> None"),
          "scores: [n_pieces] float32. Raises UsageError for NaN.")
      .def(
          "encode",
          [](const SentencePiece& self, nb::str text) {
            const std::string bytes = encode(text);
            const nb::gil_scoped_release unlocked;
            return self.encode(bytes);
          },
          "text"_a, "Ids of text without special tokens. Raises UsageError.");
  nb::class_<BytePairEncoder>(m, "BytePairEncoder", "Merges pairs by rank inside pieces of text.")
      .def(
          "__init__",
          [](BytePairEncoder* self, std::shared_ptr<Vocabulary> vocabulary, const Strings& merges,
             bool ignore_merges) {
            new (self) BytePairEncoder(std::move(vocabulary), merges, ignore_merges);
          },
          "vocabulary"_a, "merges"_a, "ignore_merges"_a,
          "merges: \"left right\" by rank. Raises UsageError where one does not fit.")
      .def(
          "encode",
          [](const BytePairEncoder& self, const nb::list& pieces) {
            std::vector<std::int32_t> ids;
            for (const nb::handle piece : pieces) self.encode(encode(piece), ids);
            return ids;
          },
          "pieces"_a, nb::sig("def encode(self, pieces: list[str]) -> list[int]"),
          "Ids of pieces as the pre-tokenizer cut them, one after the other.");
}

}  // namespace quarrel
