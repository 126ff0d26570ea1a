"""LLM inference for Apple Silicon and plain CPUs.

>>> from longbow_quarrel import LLM, SamplingParams
>>> llm = LLM("smollm2-135m")
>>> llm.generate("The capital of France is", SamplingParams(max_tokens=8))[0].text
"""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

from longbow_quarrel.config import EngineConfig
from longbow_quarrel.llm import LLM, RequestOutput, TextStream
from longbow_quarrel.sampling import SamplingParams

try:
    __version__ = version("longbow-quarrel")
except PackageNotFoundError:  # imported from a source tree
    __version__ = "0+unknown"

__all__ = ["LLM", "EngineConfig", "RequestOutput", "SamplingParams", "TextStream", "__version__"]
