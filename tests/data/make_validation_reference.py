"""Make the data that ``longbow-quarrel validate`` compares with, from an exact forward pass.

    python tests/data/make_validation_reference.py smollm2-135m gemma3-270m

The computation is ``tests/reference_model.py``: NumPy in float64 over the dequantised weights of
the file, sharing no code with the product. The product only cuts the text into tokens and proposes
continuations, every token of which is checked against the exact logits, so that they are the exact
computation's own. A model takes some minutes and 4 GB.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from longbow_quarrel import LLM, EngineConfig, SamplingParams, sources
from longbow_quarrel.evaluation.compact import CompactRows, compress, log_softmax
from longbow_quarrel.evaluation.logits_base import BaseChunk, BaseHeader, LogitsBaseWriter
from longbow_quarrel.validation import reference as packaged
from reference_model import ReferenceModel

MADE_BY = "float64 forward pass in NumPy over the dequantised weights"
PROMPTS = (
    "The capital of France is",
    "Once upon a time, in a village by the sea, there lived",
    "def fibonacci(n):\n",
    "The three primary colours are",
    "A longbow differs from a crossbow in that",
    "1, 2, 3, 5, 8, 13,",
)
N_GREEDY = 32  # tokens of a continuation
K, N_SAMPLES = 96, 24
ROWS_OF_A_CHUNK = 64
ROWS_OF_AN_OCTAVE = 40
SEED = 7


class Maker:
    """Data of one model.

    Args:
        n_ctx: of the chunks that give the perplexity.
        long: tokens of the chunk that shows all depths.
    """

    def __init__(self, path: Path, name: str, text: str, n_ctx: int, long: int) -> None:
        self.path, self.name, self.text = path, name, text
        self.n_ctx, self.long = n_ctx, long
        config = EngineConfig(kv_type_k="f32", kv_type_v="f32", max_num_seqs=1)
        self.llm = LLM(path, config=config)
        self.exact = ReferenceModel(path)
        ids = self.llm.engine.tokenizer.encode(text, add_special=True)
        self.tokens = np.array(ids, np.int32)
        assert len(self.tokens) >= long, f"the text has {len(self.tokens)} tokens"

    def write(self, folder: Path, prompts: Sequence[str]) -> None:
        """NAME.json and NAME.logits in ``folder``."""
        losses, chunks = self._short_chunks()
        chunks.append(self._long_chunk())
        vocab_size = self.llm.engine.vocab_size
        k = min(K, vocab_size)
        header = BaseHeader(
            vocab_size=vocab_size,
            n_ctx=0,
            n_chunks=len(chunks),
            k=k,
            n_samples=N_SAMPLES if k < vocab_size else 0,
            made_by=MADE_BY,
            model=self.name,
        )
        with LogitsBaseWriter(folder / f"{self.name}.logits", header) as writer:
            for chunk in chunks:
                writer.add(chunk)
        facts = {
            "model": self.name,
            "sha256": packaged.file_sha256(self.path),
            "made_by": MADE_BY,
            "text_sha256": hashlib.sha256(self.text.encode()).hexdigest(),
            "n_ctx": self.n_ctx,
            "n_chunks": len(losses),
            "perplexity": math.exp(np.mean(losses)),
            "greedy": [self._continue(prompt) for prompt in prompts],
        }
        text = json.dumps(facts, indent=1, ensure_ascii=False)
        (folder / f"{self.name}.json").write_text(text + "\n", encoding="utf-8")

    def _short_chunks(self) -> tuple[list[np.ndarray], list[BaseChunk]]:
        """Losses of all scored tokens, and some of the rows."""
        positions = np.arange(self.n_ctx // 2, self.n_ctx - 1, dtype=np.int32)
        losses, chunks = [], []
        for start in range(0, self.long - self.n_ctx + 1, self.n_ctx):
            chunk = self.tokens[start : start + self.n_ctx]
            logits = self._logits(chunk, positions)
            log_p = log_softmax(logits)
            losses.append(-log_p[np.arange(len(positions)), chunk[positions + 1]])
            kept = np.arange(0, len(positions), max(1, len(positions) // ROWS_OF_A_CHUNK))
            rows = self._rows(logits[kept], positions[kept], chunk, start)
            chunks.append(BaseChunk(start, chunk, rows))
            print(f"{self.name}: {math.exp(np.mean(losses)):.4f} up to {start}", flush=True)
        return losses, chunks

    def _long_chunk(self) -> BaseChunk:
        chunk = self.tokens[: self.long]
        n_octaves = self.long.bit_length()
        depths = {
            min(int(low + low * i / ROWS_OF_AN_OCTAVE), self.long - 1)
            for low in (1 << n for n in range(n_octaves))
            for i in range(ROWS_OF_AN_OCTAVE)
            if low < self.long
        }
        positions = np.array(sorted(depths), np.int32) - 1
        logits = self._logits(chunk, positions)
        print(f"{self.name}: {len(positions)} rows of a long chunk", flush=True)
        return BaseChunk(0, chunk, self._rows(logits, positions, chunk, self.long))

    def _logits(self, chunk: np.ndarray, positions: np.ndarray) -> np.ndarray:
        tokenizer = self.llm.engine.tokenizer
        shown = chunk[: int(positions[-1]) + 1].tolist()
        if tokenizer.add_bos:
            shown[0] = tokenizer.bos_id
        return self.exact.logits(shown, positions.tolist())

    def _rows(
        self, logits: np.ndarray, positions: np.ndarray, chunk: np.ndarray, seed: int
    ) -> CompactRows:
        following = chunk[positions + 1]
        return compress(logits, positions, following, k=K, n_samples=N_SAMPLES, seed=SEED + seed)

    def _continue(self, prompt: str) -> dict[str, object]:
        """The exact greedy continuation: proposals are kept up to the first that it refuses."""
        ids = self.llm.tokenize(prompt)
        end_ids = self.llm.engine.tokenizer.eog_ids
        kept: list[int] = []
        gaps: list[float] = []
        while len(kept) < N_GREEDY and not (kept and kept[-1] in end_ids):
            n = N_GREEDY - len(kept)
            greedy = SamplingParams(max_tokens=n, temperature=0)
            proposed = self.llm.generate([ids + kept], greedy)[0].token_ids
            shown = ids + kept + proposed[:-1]
            first = len(ids) + len(kept) - 1
            for row, token in zip(
                self.exact.logits(shown, list(range(first, len(shown)))), proposed, strict=True
            ):
                second, best = np.partition(row, -2)[-2:]
                kept.append(int(row.argmax()))
                gaps.append(round(float(best - second), 4))
                if kept[-1] != token:
                    break
        print(f"{self.name}: {self.llm.detokenize(kept)!r}", flush=True)
        return {"prompt": prompt, "prompt_token_ids": ids, "token_ids": kept, "gaps": gaps}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("models", nargs="+", metavar="NAME", help="of the catalogue")
    parser.add_argument("--file", type=Path, help="the model's file, if it is not to be fetched")
    parser.add_argument("--out", type=Path, default=packaged.folder())
    options = parser.parse_args()
    for name in options.models:
        path = options.file or sources.resolve(name)
        Maker(path, name, packaged.text(), 512, 2048).write(options.out, PROMPTS)


if __name__ == "__main__":
    main()
