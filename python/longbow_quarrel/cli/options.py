"""Options for typer made from the fields of ``config.py``, so that the two cannot drift apart."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import typer

from longbow_quarrel.cli.flags import Flags, alternatives, checked_text, flag_names, is_switch
from longbow_quarrel.config import (
    EngineConfig,
    GenerationConfig,
    RolloutConfig,
    ServerConfig,
    SourceConfig,
)
from longbow_quarrel.settings import FieldInfo

__all__ = ["Flags", "checked_text", "configured", "flag_names"]

Section = (
    type[EngineConfig]
    | type[GenerationConfig]
    | type[SourceConfig]
    | type[ServerConfig]
    | type[RolloutConfig]
)

# Of the commands that look at one model: in place of -m.
ModelArgument = Annotated[
    str | None,
    typer.Argument(metavar="MODEL", help="As for -m: path, catalogue name, hf:, ..."),
]


def configured(
    *sections: Section, without: tuple[str, ...] = ()
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command, whose first parameter is a :class:`Flags`, the flags of ``sections``."""
    fields = {
        name: field
        for section in sections
        for name, field in section.model_fields.items()
        if name not in without
    }

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(command)
        def run(**values: Any) -> None:
            given = {name: values.pop(name) for name in fields}
            command(Flags({k: v for k, v in given.items() if v is not None}), **values)

        own = list(inspect.signature(command, eval_str=True).parameters.values())[1:]
        flags = [
            inspect.Parameter(
                name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=_option(name, field)
            )
            for name, field in fields.items()
        ]
        kept = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in own]
        run.__signature__ = inspect.Signature(kept + flags)  # type: ignore[attr-defined]
        run.__annotations__ = {p.name: p.annotation for p in kept + flags}
        del run.__wrapped__
        return run

    return decorate


def _option(name: str, field: FieldInfo) -> Any:
    value_type, metavar = _flag_type(field)
    text = field.description.rstrip(".")
    default = "" if field.default is None else f" [default: {_plain(field.default)}]"
    option = typer.Option(
        *flag_names(name), help=text + default, metavar=metavar, show_default=False
    )
    return Annotated[value_type | None, option]


def _plain(default: object) -> str:
    return str(default).lower() if isinstance(default, bool) else str(default)


def _flag_type(field: FieldInfo) -> tuple[type, str | None]:
    """How the flag is parsed, which is hardly: the section checks it as it checks the file."""
    if is_switch(field):
        return bool, None
    allowed = alternatives(field.annotation)
    choices = [c for a in allowed if get_origin(a) is Literal for c in get_args(a)]
    if int in allowed and choices:
        return str, "SIZE"
    names = {int: "N", float: "X", Path: "PATH"}
    metavar = next((names[a] for a in allowed if a in names), "TEXT")
    return str, "|".join(choices) or metavar
