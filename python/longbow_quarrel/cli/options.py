"""Flags made from the fields of ``config.py``, so that the two cannot drift apart.

A flag that is not given is absent, not its default: only so can the environment and the
configuration file have their say.
"""

from __future__ import annotations

import functools
import inspect
import types
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

import typer
from pydantic.fields import FieldInfo

from longbow_quarrel.config import EngineConfig, GenerationConfig, ServerConfig, SourceConfig
from longbow_quarrel.errors import UsageError

Section = type[EngineConfig] | type[GenerationConfig] | type[SourceConfig] | type[ServerConfig]
Loaded = TypeVar("Loaded", EngineConfig, GenerationConfig, SourceConfig, ServerConfig)

# Of the commands that look at one model: in place of -m.
ModelArgument = Annotated[
    str | None,
    typer.Argument(metavar="MODEL", help="As for -m: path, catalogue name, hf:, ..."),
]

# Where a flag is called otherwise than its field; llama.cpp's names first.
_NAMES: dict[str, tuple[str, ...]] = {
    "alias": ("-a", "--alias"),
    "context_length": ("-c", "--context-length"),
    "kv_type_k": ("-ctk", "--kv-type-k"),
    "kv_type_v": ("-ctv", "--kv-type-v"),
    "max_tokens": ("-n", "--max-tokens"),
    "model": ("-m", "--model"),
    "n_threads": ("-t", "--threads"),
    "prefix_caching": ("--prefix-caching/--no-prefix-caching",),
    "offline": ("--offline/--no-offline",),
    "seed": ("-s", "--seed"),
    "temperature": ("--temp", "--temperature"),
}


@dataclass(frozen=True)
class Flags:
    """The flags that were given, by field name."""

    values: Mapping[str, Any]

    def load(self, section: type[Loaded], **overrides: Any) -> Loaded:
        """A section of the configuration: flags over environment over file over defaults.

        Raises:
            UsageError: a value out of range or an unknown key.
        """
        own = {k: v for k, v in self.values.items() if k in section.model_fields}
        return section.load(**(own | overrides))


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


def flag_names(field_name: str) -> tuple[str, ...]:
    """How the flag of a configuration field is written."""
    return _NAMES.get(field_name, ("--" + field_name.replace("_", "-"),))


def checked_text(text: str, what: str) -> str:
    """``text`` itself, if the bytes on the command line were UTF-8.

    Raises:
        UsageError: they were not.
    """
    try:
        text.encode()
    except UnicodeEncodeError as e:
        raise UsageError(f"{what} is no UTF-8 text (character {e.start}); convert it.") from None
    return text


def _option(name: str, field: FieldInfo) -> Any:
    value_type, metavar = _flag_type(field)
    text = (field.description or "").rstrip(".")
    default = "" if field.default is None else f" [default: {_plain(field.default)}]"
    option = typer.Option(
        *flag_names(name), help=text + default, metavar=metavar, show_default=False
    )
    return Annotated[value_type | None, option]


def _plain(default: object) -> str:
    return str(default).lower() if isinstance(default, bool) else str(default)


def _flag_type(field: FieldInfo) -> tuple[type, str | None]:
    """How the flag is parsed, which is hardly: the section checks it as it checks the file."""
    alternatives = _alternatives(field.annotation)
    if bool in alternatives:
        return bool, None
    choices = [c for a in alternatives if get_origin(a) is Literal for c in get_args(a)]
    if int in alternatives and choices:
        return str, "SIZE"
    names = {int: "N", float: "X", Path: "PATH"}
    metavar = next((names[a] for a in alternatives if a in names), "TEXT")
    return str, "|".join(choices) or metavar


def _alternatives(annotation: Any) -> list[Any]:
    origin = get_origin(annotation)
    if origin is Annotated:
        return _alternatives(get_args(annotation)[0])
    if origin in (Union, types.UnionType):
        return [b for a in get_args(annotation) for b in _alternatives(a)]
    return [] if annotation is type(None) else [annotation]
