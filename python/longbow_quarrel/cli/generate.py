"""``generate``: one text from one prompt."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from longbow_quarrel.cli import loading, report
from longbow_quarrel.cli.options import Flags, checked_text, configured
from longbow_quarrel.config import EngineConfig, GenerationConfig, SourceConfig
from longbow_quarrel.errors import UsageError

if TYPE_CHECKING:
    from longbow_quarrel import LLM

_FROM_STDIN = "-"


@configured(SourceConfig, GenerationConfig, EngineConfig)
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
    if raw and system is not None:
        raise UsageError("--system needs the model's template; leave out --raw or --system.")
    text = checked_text(_read_prompt(prompt), "The prompt")
    if system is not None:
        checked_text(system, "--system")
    generation = flags.load(GenerationConfig)
    config = flags.load(EngineConfig)
    source = flags.load(SourceConfig)

    from longbow_quarrel import SamplingParams

    params = SamplingParams(**generation.model_dump())  # checked before anything slow begins
    llm = loading.load(source, config)
    saved = None
    if prompt_cache is not None and prompt_cache.exists():
        saved = llm.load_sequence(prompt_cache)
    stream = llm.stream(_encode(llm, text, raw, system), params, resume=saved)
    with llm, stream:
        for piece in stream:
            if not as_json:
                sys.stdout.write(piece)
                sys.stdout.flush()
    if prompt_cache is not None:
        ids = stream.output.prompt_token_ids + stream.output.token_ids
        llm.save_sequence(prompt_cache, ids[: llm.engine.runner.context_length])
    if as_json:
        print(json.dumps(report.as_dict(stream.output), ensure_ascii=False))
    elif not stream.output.text.endswith("\n"):
        print(flush=True)
    if verbose:
        print(report.timings_line(stream.output), file=sys.stderr)


def _read_prompt(prompt: str | None) -> str:
    if prompt is None and sys.stdin.isatty():
        raise UsageError("generate needs a PROMPT; give one, or pipe it to standard input.")
    if prompt is None or prompt == _FROM_STDIN:
        try:
            # The newline that ends a line in a pipe is not part of what was said.
            prompt = sys.stdin.buffer.read().decode("utf-8").removesuffix("\n")
        except UnicodeDecodeError as e:
            raise UsageError(
                f"Standard input is no UTF-8 text (byte {e.start}); convert it first."
            ) from None
    if not prompt:
        raise UsageError("The prompt is empty; give at least one character.")
    return prompt


def _encode(llm: LLM, text: str, raw: bool, system: str | None) -> list[int]:
    if raw or (system is None and not llm.has_chat_template):
        return llm.tokenize(text)
    messages = [] if system is None else [{"role": "system", "content": system}]
    return llm.encode_chat([*messages, {"role": "user", "content": text}])
