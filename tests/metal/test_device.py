"""The Metal device: memory, failures, measurements. What fails fails alone."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from longbow_quarrel import LLM, EngineConfig, SamplingParams, _core, models
from longbow_quarrel.errors import OutOfMemoryError, QuarrelError, UsageError
from metal_rig.framework.control import Fault, SoftwareMetal

Load = Callable[..., LLM]
PROMPT = list(range(5, 25))
GREEDY = SamplingParams(max_tokens=5, temperature=0, ignore_eos=True)


def _text(llm: LLM) -> list[int]:
    [out] = llm.generate([PROMPT], GREEDY)
    return out.token_ids


@pytest.mark.skipif(sys.platform == "darwin", reason="a Mac's build has Metal")
def test_a_build_without_metal_says_what_to_do(tiny_model_path: Callable[[str], Path]) -> None:
    assert not _core.MetalDevice.is_available()
    config = EngineConfig(device="metal")
    with pytest.raises(QuarrelError, match='no Metal: use device="cpu", or install on a Mac'):
        LLM(tiny_model_path("llama3"), config=config)
    automatic = LLM(tiny_model_path("llama3"), config=EngineConfig(device="auto", n_threads=1))
    assert automatic.engine.runner.device.name == "cpu"


@pytest.mark.usefixtures("metal")
def test_auto_takes_metal_where_there_is_one(tiny_model_path: Callable[[str], Path]) -> None:
    llm = LLM(tiny_model_path("llama3"), config=EngineConfig(device="auto"))
    assert llm.engine.runner.device.name == "metal"


def test_memory_is_known_before_it_is_taken(
    metal: Any, tiny_model_path: Callable[[str], Path]
) -> None:
    _, program = models.record(_core.GGUFFile(str(tiny_model_path("gemma3"))))
    device = metal()
    ledger = _core.MemoryLedger(1 << 30)
    needs = device.memory_needs(program, 64, max_selected_rows=4, max_context_tokens=300)
    before = device.allocated_bytes
    executable = device.compile(program, 64, ledger, max_selected_rows=4, max_context_tokens=300)
    used = ledger.used_by_kind()
    assert (used["weights"], used["scratch"]) == needs
    assert needs[0] == program.weight_bytes
    # Mapped pages and Metal's own rounding come on top of what is charged.
    assert device.allocated_bytes - before >= sum(needs)
    del executable
    assert ledger.used_bytes == 0


def test_everything_is_given_back(rig: SoftwareMetal, metal_llm: Load) -> None:
    gc.collect()  # models of other tests
    before = rig.n_live_buffers
    llm = metal_llm("llama3")
    _text(llm)
    ledger = llm.engine.runner.ledger
    idle = ledger.used_bytes
    llm.logits(PROMPT * 2)  # more rows than a generating step has
    assert ledger.used_bytes == idle
    del llm
    gc.collect()
    assert ledger.used_bytes == 0
    assert rig.n_live_buffers == before
    for _ in range(1000):  # the queue's thread lets go of one a moment after its work is done
        if rig.n_live_command_buffers == 0:
            break
        time.sleep(0.001)
    assert rig.n_live_command_buffers == 0


def test_the_working_set_is_a_limit(rig: SoftwareMetal, metal_llm: Load) -> None:
    rig.set_recommended_working_set_bytes(1 << 20)
    with pytest.raises(OutOfMemoryError, match="of the GPU's recommended 1048576 are taken"):
        metal_llm("llama3", kv_cache_memory=8 << 20)


def test_the_cache_is_made_to_fit_the_working_set(rig: SoftwareMetal, metal_llm: Load) -> None:
    roomy = metal_llm("llama3", context_length=4096)
    device = roomy.engine.runner.device
    wanted = roomy.engine.runner.plan.capacity_tokens
    taken = device.allocated_bytes
    rig.set_recommended_working_set_bytes(taken + (roomy.engine.runner.plan.total_bytes * 3) // 4)
    tight = metal_llm("llama3", context_length=4096)
    assert 16 <= tight.engine.runner.plan.capacity_tokens < wanted
    assert device.allocated_bytes <= device.recommended_bytes
    assert _text(tight) == _text(roomy)


@pytest.mark.parametrize("after_successes", [0, 1, 3, 6])
def test_a_refused_allocation_ends_the_load(
    after_successes: int, rig: SoftwareMetal, metal_llm: Load
) -> None:
    gc.collect()
    before = rig.n_live_buffers
    rig.inject(Fault.ALLOCATION, after_successes)
    with pytest.raises(OutOfMemoryError, match="the GPU refused"):
        metal_llm("llama3")
    assert rig.n_live_buffers == before
    metal_llm("llama3")


def test_shaders_that_do_not_compile_end_the_load(rig: SoftwareMetal, metal_llm: Load) -> None:
    for fault, message in [
        (Fault.COMPILE, "does not compile: injected"),
        (Fault.PIPELINE, "cannot be made ready: injected"),
    ]:
        rig.inject(fault)
        with pytest.raises(QuarrelError, match=message):
            metal_llm("llama3")
    metal_llm("llama3")


@pytest.mark.parametrize("fault", [Fault.GPU, Fault.TIMEOUT])
@pytest.mark.parametrize("after_successes", [0, 3, 90])
def test_a_failed_step_ends_its_requests_only(
    fault: Fault, after_successes: int, rig: SoftwareMetal, metal_llm: Load
) -> None:
    llm = metal_llm("llama3", cache="paged")
    expected = _text(llm)
    idle = llm.engine.runner.ledger.used_bytes
    rig.inject(fault, after_successes)
    with pytest.raises(QuarrelError, match=r"the GPU failed .*injected.* later ones can be"):
        _text(llm)
    assert llm.stats()["cache"]["n_used_blocks"] == 0
    assert llm.engine.runner.ledger.used_bytes == idle
    assert _text(llm) == expected


def test_requests_of_other_steps_go_on(rig: SoftwareMetal, metal_llm: Load) -> None:
    """A GPU fault ends those that were in the step; who waited is computed."""
    llm = metal_llm("llama3", max_num_seqs=2)
    expected = _text(llm)
    engine = llm.engine
    requests = [engine.add(PROMPT, GREEDY)[0] for _ in range(4)]
    rig.inject(Fault.GPU, 3)
    while any(r.finish_reason is None for r in requests):
        engine.step()
    assert [r.finish_reason for r in requests] == ["error", "error", "length", "length"]
    assert [list(r.output_ids) for r in requests[2:]] == [expected, expected]
    assert all("the GPU failed" in str(r.error) for r in requests[:2])


def test_a_refused_allocation_ends_its_request_only(rig: SoftwareMetal, metal_llm: Load) -> None:
    llm = metal_llm("llama3")
    expected = _text(llm)
    idle = llm.engine.runner.ledger.used_bytes
    rig.inject(Fault.ALLOCATION)
    with pytest.raises(OutOfMemoryError, match="the GPU refused"):
        llm.logits(PROMPT * 2)
    assert llm.engine.runner.ledger.used_bytes == idle
    assert _text(llm) == expected


def test_unordered_dispatches_may_run_in_any_order(rig: SoftwareMetal, metal_llm: Load) -> None:
    """Lanes, threadgroups and the dispatches between two barriers, last first."""
    expected = _text(metal_llm("gemma3"))
    rig.set_reversed(True)
    assert _text(metal_llm("gemma3")) == expected


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gemma3", "qwen2"])
def test_no_hazard_is_left_without_a_barrier(
    name: str, rig: SoftwareMetal, metal_llm: Load
) -> None:
    """Every access of every kernel is watched; a prompt is cut, so that steps mix both phases."""
    rig.set_access_checks(True)
    llm = metal_llm(name, max_num_batched_tokens=16, cache="paged")
    outputs = llm.generate([PROMPT, PROMPT[:3], PROMPT[7:]], GREEDY)
    assert all(len(out.token_ids) == 5 for out in outputs)
    for temperature in (0.0, 0.9):  # argmax, then top-k
        params = SamplingParams(max_tokens=2, temperature=temperature, top_k=5, seed=1)
        assert all(out.token_ids for out in llm.generate([PROMPT, PROMPT[:3]], params))


def test_fewer_threads_per_threadgroup(rig: SoftwareMetal, metal_llm: Load) -> None:
    """A GPU may allow fewer than 1024 for a kernel that needs many registers."""
    expected = _text(metal_llm("llama3"))
    rig.set_max_threads_per_threadgroup(128)
    assert _text(metal_llm("llama3")) == expected


def test_kernels_are_timed(metal_llm: Load) -> None:
    llm = metal_llm("llama3")
    expected = _text(llm)
    assert llm.engine.runner.device.step_seconds > 0
    llm.engine.runner.executable.set_profiling(True)
    assert _text(llm) == expected
    times = {(t.phase, t.name): t for t in llm.engine.runner.executable.stage_times()}
    llm.engine.runner.executable.set_profiling(False)
    n_layers = len(llm.engine.runner.program.kv_layers)
    assert times["decode", "attention_decode"].n_runs == 4 * n_layers
    assert all(t.seconds > 0 for t in times.values())


def test_a_layer_is_twelve_dispatches(metal_llm: Load) -> None:
    """As docs/reports/metal-row-costs.md counts them; around the layers there are embedding,
    select_rows, rms_norm, the logits' linear layer and argmax."""
    llm = metal_llm("qwen2")
    llm.engine.runner.executable.set_profiling(True)
    llm.generate([PROMPT], SamplingParams(max_tokens=4, temperature=0))
    n_runs = {
        t.name: t.n_runs for t in llm.engine.runner.executable.stage_times() if t.phase == "decode"
    }
    n_layers = len(llm.engine.runner.program.kv_layers)
    n_steps = n_runs["attention_decode"] // n_layers
    assert n_steps > 0
    assert n_runs["linear_gated_Q8_0"] == n_steps * n_layers
    assert sum(n_runs.values()) == n_steps * (12 * n_layers + 5)


@pytest.mark.usefixtures("rig")
def test_a_step_is_captured(metal_llm: Load, tmp_path: Path) -> None:
    llm = metal_llm("llama3")
    llm.engine.runner.device.capture_next_step(str(tmp_path / "step.gputrace"))
    expected = _text(llm)
    assert "attention_prefill" in (tmp_path / "step.gputrace").read_text()
    llm.engine.runner.device.capture_next_step(str(tmp_path / "missing" / "step.gputrace"))
    with pytest.raises(QuarrelError, match=r"no capture to .*METAL_CAPTURE_ENABLED"):
        _text(llm)
    assert _text(llm) == expected


@pytest.mark.usefixtures("rig")
def test_pipelines_are_kept_for_the_next_process(metal_llm: Load, tmp_path: Path) -> None:
    expected = _text(metal_llm("llama3"))
    [archive] = (tmp_path / "metal").iterdir()
    kept = archive.stat().st_mtime_ns
    assert _text(metal_llm("llama3")) == expected
    assert archive.stat().st_mtime_ns == kept  # nothing new was compiled
    archive.write_text("damaged")
    assert _text(metal_llm("llama3")) == expected
    assert archive.read_text() != "damaged"


SECOND_PROCESS = """
import sys
from longbow_quarrel import _core, models
from metal_rig.device.build import load_device

device = load_device().MetalDevice(archive_folder=sys.argv[1])
_, program = models.record(_core.GGUFFile(sys.argv[2]))
device.compile(program, 64, _core.MemoryLedger(1 << 30))
"""


@pytest.mark.usefixtures("rig")
def test_another_process_finds_the_pipelines(
    tiny_model_path: Callable[[str], Path], tmp_path: Path
) -> None:
    """The second one compiles nothing, so it does not write the archive again."""
    tests = Path(__file__).parents[1]
    path = os.pathsep.join([str(tests), *filter(None, sys.path)])
    written = []
    for _ in range(2):
        command = [sys.executable, "-c", SECOND_PROCESS, str(tmp_path / "kept")]
        command.append(str(tiny_model_path("llama3")))
        subprocess.run(command, env=os.environ | {"PYTHONPATH": path}, timeout=120, check=True)
        [archive] = (tmp_path / "kept").iterdir()
        written.append((archive.stat().st_mtime_ns, archive.stat().st_ino))
    assert written[0] == written[1]


def test_head_sizes_without_kernels_are_refused(
    metal: Any, tiny_model_path: Callable[[str], Path]
) -> None:
    builder = _core.ProgramBuilder([_core.KVLayer(1, 40)])
    file = _core.GGUFFile(str(tiny_model_path("llama3")))
    x = builder.embedding(builder.weight(file, "token_embd.weight"))
    program = builder.finish(builder.select_rows(x))
    with pytest.raises(UsageError, match=r"head size among 16, .* got 40; use device=.cpu."):
        metal().kv_block_bytes(program, 16, "F16", "F16")
