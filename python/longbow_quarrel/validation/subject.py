"""What is validated: a model file, a configuration, the strategies, and what they must give."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from longbow_quarrel.benchmarking import Workload
from longbow_quarrel.config import EngineConfig
from longbow_quarrel.llm import LLM
from longbow_quarrel.validation.baseline import Baseline
from longbow_quarrel.validation.bounds import Bounds
from longbow_quarrel.validation.reference import ReferenceData

BASELINE_STRATEGY = "contiguous"


@dataclass(frozen=True)
class Effort:
    """How much is computed.

    Attributes:
        prompt_lengths: tokens of the prompts whose bits are compared.
        n_tokens: that are generated for each of them.
        works: whose speed is measured.
        rounds: of each.
    """

    prompt_lengths: tuple[int, ...] = (1, 17, 130, 300)
    n_tokens: int = 16
    works: tuple[Workload, ...] = (
        Workload(512, 0),
        Workload(0, 64),
        Workload(0, 32, depth=1024),
        Workload(0, 16, depth=128, batch=8),
    )
    rounds: int = 5


@dataclass(frozen=True)
class Subject:
    """One model under validation.

    Attributes:
        data: its reference; None if there is none.
        baseline: stored speeds, of this machine or of others.
        llamacpp: folder of llama.cpp's binaries, if its figures are wanted.
        tell: told what is being done.
    """

    path: Path
    name: str
    sha256: str
    config: EngineConfig
    strategies: tuple[str, ...]
    data: ReferenceData | None
    bounds: Bounds
    baseline: Baseline
    llamacpp: Path | None = None
    effort: Effort = Effort()
    tell: Callable[[str], None] = lambda _: None

    def load(self, strategy: str, **changes: Any) -> LLM:
        """The model with a strategy and a configuration that differs in ``changes``."""
        self.tell(f"{self.name}, {strategy}")
        return LLM(self.path, config=self.configured(cache=strategy, **changes))

    def configured(self, **changes: Any) -> EngineConfig:
        return EngineConfig(**(self.config.model_dump() | changes))
