"""``plan``: what a model will take, to the byte, without loading it."""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from longbow_quarrel.cli import loading, report
from longbow_quarrel.cli.options import Flags, ModelArgument, configured
from longbow_quarrel.config import EngineConfig, SourceConfig

if TYPE_CHECKING:
    from longbow_quarrel.memory_plan import MemoryPlan, Outlook


@configured(EngineConfig, SourceConfig)
def plan(
    flags: Flags,
    argument: ModelArgument = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Show the memory a model takes, and what it can serve, before loading it."""
    path = loading.fetch(flags.load(SourceConfig), argument)

    from longbow_quarrel import _core, cache, memory_plan

    planner = memory_plan.Planner(_core.GGUFFile(str(path)), flags.load(EngineConfig))
    found = planner.plan()
    outlooks = list(planner.outlooks(tuple(cache.strategies())))
    if as_json:
        facts = memory_plan.as_dict(found) | {
            "path": str(path),
            "outlooks": [dataclasses.asdict(outlook) for outlook in outlooks],
        }
        print(json.dumps(facts, indent=2))
    else:
        _print(found)
        print()
        _print_outlooks(found, outlooks)


def _print(found: MemoryPlan) -> None:
    rows: list[tuple[str, str]] = [
        (kind.replace("_", " "), _bytes(n)) for kind, n in found.by_kind.items()
    ]
    rows.append(("total", _bytes(found.total_bytes)))
    spare = found.cap_bytes - found.total_bytes
    fits = f"{report.size(spare)} to spare" if spare >= 0 else f"{report.size(-spare)} too little"
    rows += [
        ("memory limit", f"{_bytes(found.cap_bytes)}, {fits}"),
        ("strategy", found.strategy),
        ("KV bytes per token", _per_token(found)),
        ("KV cache holds", f"{found.capacity_tokens} tokens"),
        ("a text may have", f"{found.max_text_tokens} tokens"),
        ("sequences", f"{found.max_num_seqs}, steps of {found.max_step_tokens} tokens"),
    ]
    for key, value in rows:
        print(f"{key:<20} {value}")


def _per_token(found: MemoryPlan) -> str:
    far = found.kv_bytes_per_token_far
    if far == found.kv_bytes_per_token:
        return str(far)
    return f"{found.kv_bytes_per_token}, beyond the windows {far}"


def _print_outlooks(found: MemoryPlan, outlooks: list[Outlook]) -> None:
    print(f"Under the same limit, with texts of {found.context_length} tokens:")
    header = ("strategy", "K and V", "bytes/token", "far", "per text", "longest", "texts")
    lines: list[tuple[Any, ...]] = [header]
    lines += [
        (
            o.strategy,
            o.kv_type,
            o.kv_bytes_per_token,
            o.kv_bytes_per_token_far,
            report.size(o.kv_bytes_per_sequence),
            o.largest_context,
            o.largest_concurrency,
        )
        for o in outlooks
    ]
    widths = [max(len(str(line[i])) for line in lines) for i in range(len(header))]
    for line in lines:
        cells = [
            str(c).ljust(w) if i < 2 else str(c).rjust(w)
            for i, (c, w) in enumerate(zip(line, widths, strict=True))
        ]
        print("  ".join(cells).rstrip())


def _bytes(n_bytes: int) -> str:
    return f"{n_bytes:>14,}  {report.size(n_bytes)}"
