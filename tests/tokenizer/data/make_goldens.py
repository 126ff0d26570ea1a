"""Makes goldens.json: token ids of llama.cpp for small vocabularies under every pre-tokenizer.

    python tests/tokenizer/data/make_goldens.py --libllama PATH/libllama.so

The byte-level vocabulary is trained on the texts themselves without any pre-tokenizer, so that its
merges reach across every place where a pre-tokenizer might cut: a wrong cut changes the ids. The
SentencePiece vocabulary has groups of equal scores, so that ties are exercised.
Made with llama.cpp b11434; the structure below is that of its llama.h.
"""

from __future__ import annotations

import argparse
import ctypes as c
import json
import sys
import tempfile
from pathlib import Path

from tokenizers import Tokenizer, models, pre_tokenizers, trainers

import gguf

sys.path.insert(0, str(Path(__file__).parents[1]))

import vocabularies

from longbow_quarrel.tokenizer.pre_tokenizers import PRE_TOKENIZERS

TEXTS = [
    "",
    "Hello, World! It's 9:30 and we've 1234567 reasons; they'LL say: \"DON'T\"",
    "  two spaces,   three, \t tab\r\n\r\n  windows lines \n\n\n unix lines   ",
    "x=1+2*3/4%5^6 <y> {z} [k]~`|\\ $9.99 & #tag @you __init__ a-b_c.d/e\n/f",
    "camelCase HTTPServer iPhone ÉcoleÉcole straße İstanbul ǅungla ŒUVRE",
    "Ｆｕｌｌ ｗｉｄｔｈ　ideographic space、日本語テキスト。中文字符123456漢字",
    "한국어 문장 12 ไทย ภาษา กำ हिन्दी का पाठ १२३ العربية ٤٥٦۔ עברית বাংলা",
    "emoji 🦙🦙 👨‍👩‍👧 🇫🇷 é́ combining e\u0301 zero\u200bwidth \ufeffbom no\xa0break \u2003em",
    "½ ² Ⅳ 𝟘𝟙 ʰ ª º Ω K № 1st 2nd 3½ 10²",
    "'s 'S 't 'RE 've 'M 'll 'D ' s ''s x's X'S 'ſ",
    "aaaa hahaha ---- ======== ........ !!!!???? ''''''''",
    "line\x0bvertical\x0cfeed\x1cfile\x85next\u2028sep nul\x00end\x7f",
    "    if (a) {\n\treturn b;\n    }\n\n\n\n// done … “quoted” ‘x’ — dash",
    "0 00 000 0000 00000 3.14159 1,000,000 1a2b3c",
    "क़ा। দাঁড়ি। ، ۔ …",
    "ａ_Ｂ!Ｃ？ #!/bin/sh\n\n \n  \n",
]  # fmt: skip


class _ModelParams(c.Structure):
    _fields_ = (
        [("devices", c.c_void_p), ("overrides", c.c_void_p)]
        + [(f"int{i}", c.c_int) for i in range(5)]
        + [(f"pointer{i}", c.c_void_p) for i in range(4)]
        + [("vocab_only", c.c_bool)]
        + [(f"flag{i}", c.c_bool) for i in range(5)]
    )


class LlamaCpp:
    """Just enough of libllama to tokenize."""

    def __init__(self, library: Path) -> None:
        self._lib = c.CDLL(str(library))
        self._silent = c.CFUNCTYPE(None, c.c_int, c.c_char_p, c.c_void_p)(lambda *_: None)
        self._lib.llama_log_set(self._silent, None)
        self._lib.llama_backend_init()
        self._lib.llama_model_default_params.restype = _ModelParams
        self._lib.llama_model_load_from_file.restype = c.c_void_p
        self._lib.llama_model_load_from_file.argtypes = [c.c_char_p, _ModelParams]
        self._lib.llama_model_get_vocab.restype = c.c_void_p
        self._lib.llama_model_get_vocab.argtypes = [c.c_void_p]
        self._lib.llama_model_free.argtypes = [c.c_void_p]
        self._lib.llama_tokenize.argtypes = [
            *(c.c_void_p, c.c_char_p, c.c_int, c.c_void_p, c.c_int, c.c_bool, c.c_bool),
        ]

    def ids(self, metadata: dict[str, object]) -> list[list[int]]:
        """Ids of all texts, special tokens not parsed, with the model's BOS."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "vocabulary.gguf"
            _write(path, metadata)
            params = self._lib.llama_model_default_params()
            params.vocab_only = True
            model = self._lib.llama_model_load_from_file(str(path).encode(), params)
        if not model:
            raise SystemExit(f"llama.cpp refuses {metadata['tokenizer.ggml.pre']}")
        vocab = self._lib.llama_model_get_vocab(model)
        result = []
        for text in TEXTS:
            data = text.encode()
            room = (c.c_int * (len(data) + 16))()
            count = self._lib.llama_tokenize(vocab, data, len(data), room, len(room), True, False)
            result.append(list(room[:count]))
        self._lib.llama_model_free(model)
        return result


def _write(path: Path, metadata: dict[str, object]) -> None:
    writer = gguf.GGUFWriter(path, "llama")
    for key in ("context_length", "embedding_length", "block_count", "feed_forward_length"):
        writer.add_uint32(f"llama.{key}", 8)
    writer.add_uint32("llama.attention.head_count", 1)
    writer.add_float32("llama.attention.layer_norm_rms_epsilon", 1e-5)
    for key, value in metadata.items():
        if isinstance(value, bool):
            writer.add_bool(key, value)
        elif isinstance(value, str):
            writer.add_string(key, value)
        elif isinstance(value, int):
            writer.add_uint32(key, value)
        else:
            writer.add_array(key, value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()


def _train(texts: list[str], alphabet: list[str], size: int, byte_level: bool) -> list[list[str]]:
    tokenizer = Tokenizer(models.BPE())
    if byte_level:
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.train_from_iterator(
        texts * 2,
        trainers.BpeTrainer(
            vocab_size=size, initial_alphabet=alphabet, show_progress=False, max_token_length=9
        ),
    )
    return json.loads(tokenizer.to_str())["model"]["merges"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--libllama", type=Path, required=True)
    llama = LlamaCpp(parser.parse_args().libllama)
    merges = [" ".join(m) for m in _train(TEXTS, vocabularies.byte_alphabet(), 900, True)]
    groups: dict[str, list[str]] = {}
    for name in PRE_TOKENIZERS:
        metadata = vocabularies.byte_level(merges, pre=name, bos_token_id=0, eos_token_id=0)
        groups.setdefault(json.dumps(llama.ids(metadata)), []).append(name)
    spaced = ["▁" + text.replace(" ", "▁") for text in TEXTS]
    learned = ["".join(m) for m in _train(spaced, [], 500, False)]
    scores = [-float(i // 4) for i in range(len(learned))]
    letters = sorted({char for text in spaced for char in text if char.isascii() or char == "▁"})
    pieces = [*zip(letters, [-1e6] * len(letters), strict=True), *zip(learned, scores, strict=True)]
    pieces = list({piece: (piece, score) for piece, score in pieces}.values())
    pieces = [(piece, score) for piece, score in pieces if "\x00" not in piece]
    golden = {
        "texts": TEXTS,
        "merges": merges,
        "byte_level": [{"names": n, "ids": json.loads(ids)} for ids, n in groups.items()],
        "pieces": pieces,
        "sentencepiece": llama.ids(vocabularies.sentencepiece(pieces)),
    }
    lines = [f"{json.dumps(k)}: {json.dumps(v, ensure_ascii=True)}" for k, v in golden.items()]
    vocabularies.GOLDENS.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
