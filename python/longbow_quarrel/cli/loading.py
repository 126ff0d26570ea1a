"""From flags to a model in memory, with progress on a terminal."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from longbow_quarrel.config import EngineConfig, RolloutConfig, SourceConfig

if TYPE_CHECKING:
    from longbow_quarrel import LLM


def fetch(source: SourceConfig, model: str | None = None) -> Path:
    """The model's file on this machine, downloaded if need be."""
    from longbow_quarrel import sources

    with sources.terminal_progress() as progress:
        return sources.resolve(
            source.model if model is None else model,
            cache_dir=source.cache_dir,
            progress=progress,
            offline=source.offline,
            notify=print_notice,
            ollama_store=source.ollama_store,
            index_url=source.index_url,
        )


def load(source: SourceConfig, config: EngineConfig, rollout: RolloutConfig | None = None) -> LLM:
    """The model that ``source`` names, ready to run."""
    path = fetch(source)
    with spinner(f"Loading {path.name}"):
        from longbow_quarrel import LLM

        return LLM(path, config=config, rollout=rollout)


@contextmanager
def spinner(text: str) -> Iterator[None]:
    """Show that something is going on, on a terminal."""
    if not sys.stderr.isatty():
        yield
        return
    from rich.console import Console
    from rich.markup import escape

    with Console(stderr=True).status(escape(text)):
        yield


def print_notice(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
