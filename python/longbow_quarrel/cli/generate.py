"""``generate``: one text from one prompt; what its arguments are."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from longbow_quarrel.cli import answer, quick
from longbow_quarrel.cli.options import Flags, configured


@configured(*quick.SECTIONS)
def generate(
    flags: Flags,
    prompt: Annotated[
        str | None,
        typer.Argument(
            metavar="PROMPT", help="What to say; `-`, or nothing in a pipe, reads standard input."
        ),
    ] = None,
    raw: Annotated[
        bool, typer.Option("--raw", help="Continue the prompt as it stands, without a template.")
    ] = False,
    system: Annotated[
        str | None, typer.Option("--system", help="System message, for models with a template.")
    ] = None,
    prompt_cache: Annotated[
        Path | None,
        typer.Option(
            "--prompt-cache",
            metavar="FILE",
            help="Start from the K and V in FILE if there is one, and leave those of prompt and "
            "answer in it.",
        ),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object when the text is complete.")
    ] = False,
    verbose: Annotated[
        bool, typer.Option("-v", "--verbose", help="Print timings on standard error.")
    ] = False,
) -> None:
    """Answer a prompt, as the text comes.

    A model with a chat template (an instruct model) is asked through it; --raw leaves it out. A
    model without one continues the prompt.
    """
    answer.generate(
        flags,
        prompt=prompt,
        raw=raw,
        system=system,
        prompt_cache=prompt_cache,
        as_json=as_json,
        verbose=verbose,
    )
