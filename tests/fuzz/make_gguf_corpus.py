"""Writes the seeds of the GGUF fuzzing target: ``make_gguf_corpus.py FOLDER``.

A fuzzer finds its way into a format from small well-formed files, one per feature.
"""

from __future__ import annotations

import sys
from pathlib import Path

from gguf_bytes import (
    ARRAY,
    INT32,
    STRING,
    UINT16,
    UINT32,
    Tensor,
    array,
    entry,
    gguf_bytes,
    good_entries,
    good_file,
    good_tensors,
)

# Number, elements and bytes of a block of each supported tensor type.
TENSOR_TYPES = {
    "f32": (0, 1, 4), "f16": (1, 1, 2), "q4_0": (2, 32, 18), "q4_1": (3, 32, 20),
    "q5_0": (6, 32, 22), "q5_1": (7, 32, 24), "q8_0": (8, 32, 34), "q2_k": (10, 256, 84),
    "q3_k": (11, 256, 110), "q4_k": (12, 256, 144), "q5_k": (13, 256, 176), "q6_k": (14, 256, 210),
    "bf16": (30, 1, 2),
}  # fmt: skip


def seeds() -> dict[str, bytes]:
    """Each seed by its name."""
    found = {
        "empty": b"",
        "header": gguf_bytes(),
        "version2": good_file(version=2),
        "version3": good_file(),
        "lying_counts": gguf_bytes(good_entries(), n_entries=2**60, n_tensors=2**60),
        "alignment": gguf_bytes(
            [entry("general.alignment", UINT32, 8)], good_tensors(), alignment=8
        ),
        "nested": gguf_bytes([entry("k", ARRAY, bytes([ARRAY, 0, 0, 0]) + bytes(16))]),
        "split": gguf_bytes(
            [
                entry("split.no", UINT16, 0),
                entry("split.count", UINT16, 2),
                entry("split.tensors.count", INT32, 3),
            ]
        ),
        "vocabulary": gguf_bytes([array("tokens", STRING, [str(i) for i in range(20)])]),
    }
    for number, entry_bytes in enumerate(good_entries()):
        found[f"entry{number}"] = gguf_bytes([entry_bytes])
    for name, (type_, n_elements, n_bytes) in TENSOR_TYPES.items():
        found[name] = gguf_bytes(
            [], [Tensor("t", [n_elements, 2], type_, bytes(range(n_bytes)) * 2)]
        )
    return found


def main() -> None:
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in seeds().items():
        (folder / name).write_bytes(data)


if __name__ == "__main__":
    main()
