"""From configuration and state file to an engine: one arm or two."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from longbow_quarrel import _core
from longbow_quarrel.config import EngineConfig, RolloutConfig
from longbow_quarrel.device import make_device
from longbow_quarrel.engine import Engine
from longbow_quarrel.errors import OutOfMemoryError
from longbow_quarrel.memory_plan import MemoryPlan, Planner
from longbow_quarrel.rollout import shadow
from longbow_quarrel.rollout.control import Control
from longbow_quarrel.rollout.engine import RolloutEngine
from longbow_quarrel.rollout.spec import Plan
from longbow_quarrel.rollout.state import StateFile, default_path
from longbow_quarrel.snapshots import model_identity

_log = logging.getLogger(__name__)


def make_engine(path: Path, config: EngineConfig, rollout: RolloutConfig) -> Engine:
    """An engine as the rollout's phase wants it: both arms while it runs; the candidate alone
    once it was promoted, the baseline alone once it was rolled back.

    Raises:
        UsageError: the arms make no sense.
        RolloutError: the state file cannot be used.
        OutOfMemoryError: both arms do not fit.
    """
    plan = Plan.of(config, rollout)
    baseline, candidate = plan.baseline.configure(config), plan.candidate.configure(config)
    file = _core.GGUFFile(str(path))
    device = make_device(config)
    plans = [Planner(file, arm, device).plan() for arm in (baseline, candidate)]
    exact = (
        device.name == "cpu"  # on Metal the phase, too, may change a bit
        and _seen(plans[0]) == _seen(plans[1])
        and _types(baseline) == _types(candidate)
    )
    state = StateFile((rollout.rollout_state or default_path()).expanduser().absolute())
    control = Control(plan, rollout, state, model=model_identity(file), exact=exact)
    control.start()
    try:
        if control.phase == "running":
            arms = _share_memory(file, device, plans, baseline, candidate)
            return RolloutEngine(path, *arms, control, rollout.rollout_shadow_time)
        only = candidate if control.phase == "promoted" else baseline
        _log.warning("rollout: %s; %s serves alone", control.phase.replace("_", " "), only.cache)
        engine = Engine(path, only)
        engine.rollout = control
        return engine
    except BaseException:
        control.close()
        raise


def _seen(plan: MemoryPlan) -> list[tuple[int, int]]:
    """What attention sees of each layer group; a window that no text fills hides nothing."""
    return [
        (0, 0) if window == 0 or window >= plan.context_length else (window, sinks)
        for window, sinks in plan.masks
    ]


def _types(config: EngineConfig) -> tuple[str, str]:
    return config.kv_type_k, config.kv_type_v


def _share_memory(
    file: _core.GGUFFile,
    device: _core.Device,
    plans: Sequence[MemoryPlan],
    baseline: EngineConfig,
    candidate: EngineConfig,
) -> tuple[EngineConfig, EngineConfig]:
    """Both arms with bytes of their own: half of ``kv_cache_memory`` each, since after a promotion
    the candidate serves alone; where that is ``auto``, what each would take, if there is room.

    Raises:
        OutOfMemoryError: they do not fit under the cap together.
    """
    cap = plans[0].cap_bytes
    extra = shadow.buffer_bytes(Planner(file, baseline, device).parameters.vocab_size)
    if baseline.kv_cache_memory == "auto":
        each = [plan.by_kind["kv"] for plan in plans]
        others = plans[0].total_bytes - each[0] + plans[1].by_kind["prefix_cache"] + extra
        if sum(each) + others > cap:
            each = [max((cap - others) // 2, 1)] * 2
    else:
        each = [max(baseline.kv_cache_memory // 2, 1)] * 2
    arms = (
        baseline.model_copy(update={"kv_cache_memory": each[0]}),
        candidate.model_copy(update={"kv_cache_memory": each[1], "prefix_cache_file": None}),
    )
    first, second = (Planner(file, arm, device).plan() for arm in arms)
    needed = first.total_bytes + second.beside(first).total_bytes + extra
    if needed > cap:
        raise OutOfMemoryError(
            f"[memory] both arms of the rollout take {needed} bytes but only {cap} are allowed; "
            "raise memory_limit or lower kv_cache_memory."
        )
    return arms
