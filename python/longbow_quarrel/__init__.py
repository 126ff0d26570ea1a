"""LLM inference for Apple Silicon and plain CPUs.

>>> from longbow_quarrel import LLM, SamplingParams
>>> llm = LLM("smollm2-135m")
>>> llm.generate("The capital of France is", SamplingParams(max_tokens=8))[0].text
"""

from __future__ import annotations

TYPE_CHECKING = False  # typing's, whose import would be a third of this package's

if TYPE_CHECKING:
    from longbow_quarrel.config import EngineConfig
    from longbow_quarrel.llm import LLM, RequestOutput, TextStream
    from longbow_quarrel.sampling import SamplingParams

    __version__: str

__all__ = ["LLM", "EngineConfig", "RequestOutput", "SamplingParams", "TextStream", "__version__"]

_HOMES = {
    "EngineConfig": "config",
    "LLM": "llm",
    "RequestOutput": "llm",
    "SamplingParams": "sampling",
    "TextStream": "llm",
}


def __getattr__(name: str) -> object:
    """Import on first use: the command line answers ``--help`` without loading NumPy."""
    if name in _HOMES:
        from importlib import import_module

        value: object = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    elif name == "__version__":
        from importlib import metadata  # which brings the whole of email along

        try:
            value = metadata.version("longbow-quarrel")
        except metadata.PackageNotFoundError:  # imported from a source tree
            value = "0+unknown"
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
