"""The configuration as a page: ``python -m longbow_quarrel.cli.reference``."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from longbow_quarrel.cli.flags import alternatives, flag_names
from longbow_quarrel.config import (
    SECTIONS,
    EngineConfig,
    GenerationConfig,
    RolloutConfig,
    ServerConfig,
    SourceConfig,
    parse_size,
)
from longbow_quarrel.settings import FieldInfo, Secret, Section

_HEAD = """# Configuration

Made by `python -m longbow_quarrel.cli.reference > docs/configuration.md`; a test compares it with
the code.

Each option below has a flag, an environment variable and a key in `quarrel.toml`. The flag wins
over the variable, the variable over the file, the file over the default. The file is the one that
`QUARREL_CONFIG` names, else `quarrel.toml` in the working folder. Unknown keys are refused, with a
guess at what was meant.

```toml
# quarrel.toml: keys of all sections side by side
model = "smollm2-135m"
cache = "paged"
kv_cache_memory = "1GiB"
n_threads = 8
temperature = 0.0
```

Sizes are whole numbers of bytes or like `512MiB`, `1GB`, `1G` (binary). In Python,
`EngineConfig(cache="paged")` takes its arguments and defaults alone; `EngineConfig.load()` reads
the environment and the file too.
"""

_SECTIONS: dict[type[Section], tuple[str, str]] = {
    EngineConfig: (
        "The engine",
        "Taken by every command that loads a model, and by `LLM(config=EngineConfig(...))`. "
        "`serve` and `profile` use the cache `paged` unless told otherwise. The names of "
        "strategies and eviction policies that are registered from outside work too.",
    ),
    GenerationConfig: (
        "Generation",
        "Defaults of `generate`, `chat` and `profile`; a request to the server brings its own.",
    ),
    SourceConfig: (
        "Where models come from",
        "Taken by every command that needs a model. `OLLAMA_MODELS` is heeded where "
        "`ollama_store` is not set.",
    ),
    ServerConfig: ("The server", "Taken by `serve`. Give `api_key` as a variable, not as a flag."),
    RolloutConfig: (
        "Rollout of a cache strategy",
        "Taken by `serve`, and `rollout_state` by `rollout`; see [rollout.md](rollout.md).",
    ),
}

_TAIL = """## Other variables

| variable | does |
|---|---|
| `QUARREL_CONFIG` | names the configuration file |
| `QUARREL_DEBUG` | `1` prints a traceback of unexpected errors |
| `OLLAMA_MODELS` | Ollama's own name for its store |
| `METAL_CAPTURE_ENABLED` | Apple's: `1` allows frame capture ([profiling.md](profiling.md)) |
"""

_NAMES: dict[object, str] = {
    bool: "yes or no",
    int: "integer",
    float: "number",
    str: "text",
    Path: "path",
    Secret: "text",
}


def markdown() -> str:
    """docs/configuration.md as it should be."""
    return _HEAD + "".join(_section(section) for section in SECTIONS) + "\n" + _TAIL


def _section(section: type[Section]) -> str:
    title, text = _SECTIONS[section]
    rows = "".join(_row(name, field) for name, field in section.model_fields.items())
    head = "| key | flag | variable | value | default | meaning |\n|---|---|---|---|---|---|\n"
    return f"\n## {title}\n\n{text}\n\n{head}{rows}"


def _row(name: str, field: FieldInfo) -> str:
    flags = ", ".join(f"`{flag}`" for flag in flag_names(name))
    meaning = (field.description or "").replace("|", "\\|")
    default = "" if field.default is None else f"`{_plain(field.default)}`"
    cells = (f"`{name}`", flags, f"`QUARREL_{name.upper()}`", _value(field), default, meaning)
    return f"| {' | '.join(cells)} |\n"


def _plain(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _value(field: FieldInfo) -> str:
    kinds = [_kind(a, field) for a in alternatives(field.annotation)]
    bounds = {
        "at least": field.ge,
        "above": field.gt,
        "at most": field.le,
        "a multiple of": field.multiple_of,
    }
    said = [f"{words} {value}" for words, value in bounds.items() if value is not None]
    return ", ".join([" or ".join(kinds), *said])


def _kind(annotation: Any, field: FieldInfo) -> str:
    if get_origin(annotation) is Literal:
        return ", ".join(f"`{choice}`" for choice in get_args(annotation))
    return "size" if field.parse is parse_size else _NAMES[annotation]


if __name__ == "__main__":
    print(markdown(), end="")
