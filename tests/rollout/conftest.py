"""Rollouts of a tiny model, with a state file of the test's own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from cli.conftest import start
from longbow_quarrel import LLM, EngineConfig
from longbow_quarrel.config import RolloutConfig
from rollout.candidates import Faulty
from server.conftest import TINY, serve

__all__ = ["serve", "start"]


@pytest.fixture(autouse=True)
def no_faults_yet():
    yield
    Faulty.begun.clear()


@pytest.fixture
def state_path(tmp_path: Path) -> Path:
    return tmp_path / "rollout.json"


@pytest.fixture
def rollout_llm(state_path: Path) -> Callable[..., LLM]:
    """``rollout_llm("paged:0.5", shadow=1)``; what EngineConfig knows goes there."""

    def load(candidate: str, **options: object) -> LLM:
        engine = {"n_threads": 2, "max_num_seqs": 4, "context_length": 512}
        engine |= {k: v for k, v in options.items() if k in EngineConfig.model_fields}
        own = {k: v for k, v in options.items() if k in RolloutConfig.model_fields}
        rollout = {"baseline": "contiguous", "rollout_state": state_path} | own
        return LLM(
            TINY,
            config=EngineConfig(**engine),
            rollout=RolloutConfig(rollout=candidate, **rollout),
        )

    return load
