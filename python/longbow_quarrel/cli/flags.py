"""The flags of configuration fields, whoever parses them.

A flag that is not given is absent, not its default: only so can the environment and the
configuration file have their say.
"""

from __future__ import annotations

import types
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin

from longbow_quarrel.config import (
    EngineConfig,
    GenerationConfig,
    RolloutConfig,
    ServerConfig,
    SourceConfig,
)
from longbow_quarrel.errors import UsageError
from longbow_quarrel.settings import FieldInfo

Loaded = TypeVar(
    "Loaded", EngineConfig, GenerationConfig, SourceConfig, ServerConfig, RolloutConfig
)

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


def flag_names(field_name: str) -> tuple[str, ...]:
    """How the flag of a configuration field is written; ``--on/--off`` for a switch."""
    return _NAMES.get(field_name, ("--" + field_name.replace("_", "-"),))


def is_switch(field: FieldInfo) -> bool:
    """Whether the field's flag takes no value."""
    return bool in alternatives(field.annotation)


def alternatives(annotation: Any) -> list[Any]:
    """The types that an annotation allows, without None."""
    origin = get_origin(annotation)
    if origin is Annotated:
        return alternatives(get_args(annotation)[0])
    if origin in (Union, types.UnionType):
        return [b for a in get_args(annotation) for b in alternatives(a)]
    return [] if annotation is type(None) else [annotation]


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
