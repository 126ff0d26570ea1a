"""All measurements of a run."""

from __future__ import annotations

import gc
import re
import time
import traceback
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from metal_rig.gpu.cases import Case, Ceiling, Decode, Linear, Prefill
from metal_rig.gpu.peer_prefill import MlxPrefill, VllmPrefill
from metal_rig.gpu.peers import peer_cases

LINEAR_TYPES = ("F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q4_K", "Q5_K", "Q6_K")
BATCHES = ((1, 4096), (1, 32768), (16, 4096), (16, 32768), (64, 4096), (64, 32768))


def variant_cases(label: str, shaders: Path) -> Iterator[Case]:
    """Other versions of the shaders, side by side with those of the product."""
    for dtype in LINEAR_TYPES:
        yield Linear(dtype, tokens_per_pass=1, shaders=shaders, label=label)
    for batch, depth in ((1, 32768), (16, 4096), (64, 32768)):
        yield Decode(batch, depth, shaders=shaders, label=label)
    yield Prefill(shaders=shaders, label=label)
    yield Prefill(1, chunk=16, shaders=shaders, label=label)
    for name in ("q8_0", "q4_0"):
        sizes = {"partition": 1024, "round": 1024}
        yield Decode(64, 32768, name, name, **sizes, shaders=shaders, label=label)


def product_cases() -> Iterator[Case]:
    for dtype in LINEAR_TYPES:
        yield Linear(dtype)
        yield Linear(dtype, tokens_per_pass=1)
    for dtype in ("F16", "Q8_0", "Q4_0", "Q4_K", "Q5_K"):
        yield Linear(dtype, n_tokens=2, tokens_per_pass=2)
        yield Linear(dtype, n_tokens=4)
    for batch, depth in BATCHES:
        yield Decode(batch, depth)
    for partition, round_ in ((128, 128), (256, 128), (256, 256), (1024, 512), (2048, 512)):
        for batch, depth in ((1, 32768), (16, 4096), (64, 32768)):
            yield Decode(batch, depth, partition=partition, round=round_)
    for block_size in (32, 64):
        yield Decode(64, 32768, block_size=block_size)
    for batch, depth in ((16, 4096), (64, 32768)):
        yield Decode(batch, depth, paged=False)
        yield Decode(batch, depth, paged=False, block_size=256)
        yield Decode(batch, depth, block_size=256)
    yield Decode(64, 32768, window=4096)
    for name in ("q8_0", "q4_0"):
        for partition, round_ in ((512, 512), (1024, 512), (1024, 1024), (1792, 1792)):
            yield Decode(64, 32768, name, name, partition=partition, round=round_)
    yield Prefill()
    yield Prefill(matrix="float")


def cases(
    variants: list[str], only: re.Pattern[str] | None, peers: Path | None = None
) -> list[Case]:
    """variants: label=folder each. only: ceilings, and what the pattern finds. peers: a folder."""
    found: list[Case] = [Ceiling("copy"), Ceiling("read"), *product_cases()]
    for variant in variants:
        label, folder = variant.split("=")
        found += variant_cases(label, Path(folder).resolve())
    if peers is not None:
        found += [*peer_cases(peers, BATCHES), *prefill_peers(peers)]
    found = [c for c in found if not only or only.search(repr(c)) or isinstance(c, Ceiling)]
    # Those that share a pool of blocks follow each other.
    return sorted(found, key=lambda case: (isinstance(case, Decode), _pool(case)))


def prefill_peers(folder: Path) -> Iterator[Case]:
    for halves in (False, True):
        if (folder / "vllm-metal").is_dir():
            yield VllmPrefill(folder / "vllm-metal", halves=halves)
        if (folder / "mlx").is_dir():
            yield MlxPrefill(folder / "mlx", halves=halves)


def _pool(case: Case) -> str:
    if isinstance(case, Prefill):
        return "prefill"
    return f"{case.k_type} {case.block_size}" if isinstance(case, Decode) else ""


def measure(
    variants: list[str], only: re.Pattern[str] | None, peers: Path | None
) -> list[dict[str, Any]]:
    """A row for each case; one that fails has an error instead of figures."""
    rows: list[dict[str, Any]] = []
    for case in cases(variants, only, peers):
        start = time.monotonic()
        try:
            row = asdict(case.measure())
        except Exception:
            row = {"case": repr(case), "failed": traceback.format_exc()}
            print(row["failed"], flush=True)
        row["took"] = round(time.monotonic() - start, 2)
        rows.append(row)
        gc.collect()
    return rows
