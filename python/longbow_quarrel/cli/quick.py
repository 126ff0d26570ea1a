"""``generate`` with plain arguments, understood without the option parser.

Importing typer and building forty options takes longer than reading a small model. So what needs
no explanation is read here, and everything else (help, other commands, anything that might be
wrong) is left to typer; a test holds the two against each other.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from longbow_quarrel.cli.flags import Flags, flag_names, is_switch
from longbow_quarrel.config import EngineConfig, GenerationConfig, SourceConfig

SECTIONS = (SourceConfig, GenerationConfig, EngineConfig)

# Of generate itself: flag to parameter, without and with a value.
_SWITCHES = {"--raw": "raw", "--json": "as_json", "-v": "verbose", "--verbose": "verbose"}
_TEXTS = {"--system": "system"}
_PATHS = {"--prompt-cache": "prompt_cache"}


def parse(arguments: Sequence[str]) -> Callable[[], None] | None:
    """The call that plain arguments of ``generate`` mean, None where typer is to look."""
    if not arguments or arguments[0] != "generate":
        return None
    read = read_generate(arguments[1:])
    if read is None:
        return None
    from longbow_quarrel.cli import answer

    flags, own = read
    return partial(answer.generate, flags, **own)


def read_generate(arguments: Sequence[str]) -> tuple[Flags, dict[str, Any]] | None:
    """Configuration flags and generate's own parameters, None where anything is unusual."""
    switches, values = _tables()
    given: dict[str, Any] = {}
    prompts: list[str] = []
    rest = iter(arguments)
    for argument in rest:
        if argument == "-" or not argument.startswith("-"):
            prompts.append(argument)
        elif argument in switches:
            name, is_on = switches[argument]
            given[name] = is_on
        else:
            flag, has_value, value = argument.partition("=")
            if flag not in values or (has_value and not flag.startswith("--")):
                return None
            if not has_value:
                value = next(rest, "-")
                if value.startswith("-"):  # missing, or a negative number
                    return None
            given[values[flag]] = value
    if len(prompts) > 1:
        return None
    own: dict[str, Any] = {"prompt": prompts[0] if prompts else None}
    own |= {name: given.pop(name, False) for name in dict.fromkeys(_SWITCHES.values())}
    own |= {name: given.pop(name, None) for name in _TEXTS.values()}
    for name in _PATHS.values():
        path = given.pop(name, None)
        own[name] = None if path is None else Path(path)
    return Flags(given), own


def _tables() -> tuple[dict[str, tuple[str, bool]], dict[str, str]]:
    """Flags without a value: parameter and what it becomes. Flags with one: parameter."""
    switches = {flag: (name, True) for flag, name in _SWITCHES.items()}
    values = _TEXTS | _PATHS
    for section in SECTIONS:
        for name, field in section.model_fields.items():
            for flag in flag_names(name):
                if is_switch(field):
                    on, _, off = flag.partition("/")
                    switches[on] = (name, True)
                    switches |= {off: (name, False)} if off else {}
                else:
                    values[flag] = name
    return switches, values
