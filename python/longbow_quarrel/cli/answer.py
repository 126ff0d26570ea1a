"""What ``generate`` does."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from longbow_quarrel.cli import loading, report
from longbow_quarrel.cli.flags import Flags, checked_text
from longbow_quarrel.config import EngineConfig, GenerationConfig, SourceConfig
from longbow_quarrel.errors import UsageError

if TYPE_CHECKING:
    from longbow_quarrel import LLM

_FROM_STDIN = "-"


def generate(
    flags: Flags,
    *,
    prompt: str | None,
    raw: bool,
    system: str | None,
    prompt_cache: Path | None,
    as_json: bool,
    verbose: bool,
) -> None:
    """Answer a prompt, as the text comes; see the command's help.

    Raises:
        UsageError: what was given makes no sense.
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
