"""``models``: the catalogue, and what of it is on this machine."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from longbow_quarrel.cli import report
from longbow_quarrel.cli.options import Flags, configured
from longbow_quarrel.config import SourceConfig


@configured(SourceConfig, without=("model", "offline", "index_url", "ollama_store"))
def models(
    flags: Flags,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON list.")] = False,
) -> None:
    """List the models that have a short name."""
    from longbow_quarrel import sources

    cache_dir = flags.load(SourceConfig).cache_dir or sources.default_cache_dir()
    rows: list[dict[str, Any]] = []
    for entry in sources.catalog():
        path = entry.path_in(cache_dir.expanduser().absolute())
        rows.append(
            {
                "name": entry.name,
                "default": entry.name == sources.DEFAULT_MODEL,
                "architecture": entry.architecture,
                "quantisation": entry.quantisation,
                "size_bytes": entry.size_bytes,
                "licence": entry.licence,
                "source": entry.source,
                "sha256": entry.sha256,
                "description": entry.description,
                "path": str(path) if path.is_file() else None,
            }
        )
    if as_json:
        print(json.dumps(rows, indent=2))
        return
    for row in rows:
        _print(row)


def _print(row: dict[str, Any]) -> None:
    where = row["path"] or f"not downloaded; get it with: longbow-quarrel pull {row['name']}"
    size = report.size(row["size_bytes"])
    print(f"{row['name']}{' (default)' if row['default'] else ''}: {row['description']}")
    print(f"  {row['architecture']}, {row['quantisation']}, {size}, {row['licence']}")
    print(f"  {where}")
