"""Over HTTP, under load: faulty candidates go, a good one stays, users have the last word."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from longbow_quarrel import LLM, SamplingParams
from longbow_quarrel.cli import main
from longbow_quarrel.rollout.engine import RolloutEngine
from longbow_quarrel.telemetry.reading import read
from rollout.candidates import FAULTS, Faulty
from rollout.load import Load, body_of
from server.conftest import tiny_llm
from server.running import Running

# A Python strategy costs a tiny model's step of half a millisecond more than a quarter.
BOUNDS = {"shadow": 0.5, "rollout_shadow_time": 0.3, "rollout_max_slowdown": 4}
BOUNDS |= {"rollout_min_steps": 50, "context_length": 128}


@pytest.fixture(scope="module")
def texts() -> dict[int, str]:
    """What each seed's answer must be."""
    alone = tiny_llm(cache="contiguous")
    found = {}
    for seed in range(24):
        body = body_of(seed)
        params = SamplingParams(
            max_tokens=24, seed=seed, ignore_eos=True, temperature=1, top_k=0, top_p=1, min_p=0
        )
        found[seed] = alone.generate([body["prompt"]], params)[0].text
    return found


def metrics(server: Running) -> dict[str, float]:
    return read(httpx.get(server.url + "/metrics").text)


def is_healthy(llm: LLM) -> bool:
    seen = llm.engine.rollout.evidence
    return seen.n_compared >= 3 and seen.n_finished["candidate"] >= 10


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(name, marks=() if name == "swaps-blocks" else pytest.mark.slow)
        for name in FAULTS
    ],
)
def test_a_planted_fault_is_caught_under_load(serve, rollout_llm, texts, fault):
    llm = rollout_llm(f"{fault}:0.5", rollout_promote_after=0, **BOUNDS)
    control = llm.engine.rollout
    server = serve(llm)
    try:
        with Load(server.url) as load:
            load.until(lambda: is_healthy(llm), more=600 if fault == "slow" else 0)
            assert control.phase == "running", control.summary()
            n_before = len(load.answers)
            Faulty.begun.set()
            load.until(lambda: control.phase == "rolled_back", more=30)
        seen = control.evidence
        caught = {k for k, n in seen.n_events.items() if n} & FAULTS[fault][1]
        print(f"{fault}: {caught} after {len(load.answers) - 30 - n_before} answers")
        assert caught
        assert {a.status for a in load.answers} == {200}  # nobody noticed
        wrong = [a for a in load.answers if a.text != texts[a.seed]]
        if "bits" not in FAULTS[fault][1]:
            assert wrong == []
        # The baseline's own answers were never touched, nor those after the rollback.
        assert all(control.plan.takes_candidate(a.request_id) for a in wrong)
        assert [a for a in wrong if a in load.answers[-20:]] == []
        assert isinstance(llm.engine, RolloutEngine)
        assert llm.engine.candidate is None
        now = metrics(server)
        assert now["rollout_phase{rolled_back}"] == 1
        assert now["rollout_share"] == 0
        assert now["rollout_requests_total{candidate}"] == seen.n_requests["candidate"]
        kv = llm.stats()["memory"]
        assert kv["by_kind"] == kv["predicted_by_kind"]
    finally:
        server.stop()


@pytest.mark.parametrize(
    "candidate", ["good:0.5", pytest.param("paged:0.5,block_size=32", marks=pytest.mark.slow)]
)
def test_a_good_candidate_is_promoted_under_load(serve, rollout_llm, texts, candidate):
    llm = rollout_llm(candidate, rollout_promote_after=30, **BOUNDS)
    control = llm.engine.rollout
    server = serve(llm)
    with Load(server.url) as load:
        load.until(lambda: control.phase == "promoted", more=30)
        n_baseline = control.evidence.n_requests["baseline"]
        load.until(lambda: True, more=20)
        assert control.evidence.n_requests["baseline"] == n_baseline
    assert [a for a in load.answers if (a.status, a.text) != (200, texts[a.seed])] == []
    now = metrics(server)
    assert now["rollout_phase{promoted}"] == now["rollout_events_total{evidence}"] == 1
    assert now["rollout_divergence_total{bits}"] == now["rollout_divergence_total{tokens}"] == 0
    assert now["rollout_logit_kl_count"] >= 20 * 24
    assert now["rollout_logit_kl_sum"] == 0
    server.stop()
    # A server that starts from here has no baseline any more.
    again = rollout_llm(candidate, **BOUNDS)
    assert not isinstance(again.engine, RolloutEngine)
    assert again.engine.runner.cache.strategy == candidate.split(":")[0]
    again.close()


def rollout(path: Path, action: str, capsys: pytest.CaptureFixture[str]) -> str:
    assert main(["rollout", action, "--rollout-state", str(path)]) == 0
    return capsys.readouterr().out


def test_commands_beside_a_running_server(serve, rollout_llm, state_path, texts, capsys):
    llm = rollout_llm("paged:0.5", rollout_promote_after=0, **BOUNDS)
    control = llm.engine.rollout
    server = serve(llm)
    with Load(server.url) as load:
        load.until(lambda: is_healthy(llm))
        assert "within about a second" in rollout(state_path, "promote", capsys)
        load.until(lambda: control.phase == "promoted", more=10)
        out = rollout(state_path, "status", capsys)
        assert "paged beside contiguous: promoted" in out
        assert "by the user (command)" in out
        assert "must be the same bits" in out
        assert "promoted already" in rollout(state_path, "promote", capsys)
        rollout(state_path, "rollback", capsys)
        load.until(lambda: control.phase == "rolled_back", more=10)
        load.until(lambda: "is restarted" in rollout(state_path, "status", capsys))
    assert [a for a in load.answers if (a.status, a.text) != (200, texts[a.seed])] == []
    server.stop()
    assert "take effect when it starts" in rollout(state_path, "restart", capsys)
    again = rollout_llm("paged:0.5", **BOUNDS)
    assert isinstance(again.engine, RolloutEngine)
    assert again.engine.rollout.evidence.n_compared == 0
    again.close()


def test_status_explains_as_json_and_says_when_there_is_nothing(tmp_path, rollout_llm, capsys):
    missing = tmp_path / "none.json"
    for action in ("status", "promote"):
        assert main(["rollout", action, "--rollout-state", str(missing)]) == 1
        assert "start one with `serve --rollout`" in capsys.readouterr().err
    llm = rollout_llm("paged:0.5")
    llm.close()
    path = llm.engine.rollout._file.path
    assert main(["rollout", "--json", "--rollout-state", str(path)]) == 0
    state = json.loads(capsys.readouterr().out)
    assert (state["phase"], state["share"]) == ("running", 0.5)
    assert [d["reason"] for d in state["decisions"]] == ["started"]
    path.write_text("{")
    assert main(["rollout", "--rollout-state", str(path)]) == 1
    assert "is damaged" in capsys.readouterr().err


def test_serve_takes_the_options_and_remembers(
    start: Callable[..., object], tiny_model_path, state_path
):
    arguments = ("serve", "-m", tiny_model_path("llama3"), "--port", 0, "--rollout-state")
    arguments = (*arguments, state_path, "--rollout", "paged:0.5", "--baseline", "contiguous")
    process = start(*arguments, "--shadow", "1")
    url = process.stderr.readline().decode().split(" at ")[1].strip()
    for seed in range(8):
        httpx.post(f"{url}/v1/completions", json=body_of(seed), timeout=60).raise_for_status()
    process.kill()  # what was decided survives; counts may lack the last second
    process.wait(30)
    assert main(["rollout", "rollback", "--rollout-state", str(state_path)]) == 0
    process = start(*arguments)
    assert "rolled back; contiguous serves alone" in process.stderr.readline().decode()
    url = process.stderr.readline().decode().split(" at ")[1].strip()
    text = httpx.get(url + "/metrics").text
    assert 'rollout_phase{device="cpu",model="llama3",phase="rolled_back"' in text
    assert 'strategy="paged"' not in text


PLUGIN = """
from longbow_quarrel.cache import register_strategy
from longbow_quarrel.strategy import BlockStrategy

class Forgetful(BlockStrategy):
    def __init__(self, config):
        super().__init__("forgetful", config)
        self.free = list(range(self.n_total))
    def take(self, n):
        return [self.free.pop() for _ in range(n)] if n <= len(self.free) else None
    def give_back(self, blocks):
        self.free += blocks
    def block_tables(self, sequence):  # the second block of a text is taken for the first
        return [t[:1] + t[:1] + t[2:] if len(t) > 1 else t for t in super().block_tables(sequence)]

register_strategy("forgetful", Forgetful)
"""


def test_a_faulty_plug_in_is_rolled_back_as_a_user_would_see_it(
    start, tiny_model_path, state_path, tmp_path, capsys
):
    (tmp_path / "forgetful.py").write_text(PLUGIN)
    process = start(
        *("serve", "-m", tiny_model_path("llama3"), "--port", 0, "--plugin", "forgetful.py"),
        *("--rollout", "forgetful:0.1", "--baseline", "contiguous", "--shadow", "0.5"),
        *("--rollout-state", state_path),
    )
    url = process.stderr.readline().decode().split(" at ")[1].strip()
    with Load(url) as load:
        load.until(lambda: "1.0" in _line(url, 'rollout_phase.*phase="rolled_back"'), more=10)
    assert {a.status for a in load.answers} == {200}
    out = rollout(state_path, "status", capsys)
    assert "forgetful beside contiguous: rolled back" in out
    assert "by the guard (bits)" in out
    assert "only one arm is loaded" in out


def _line(url: str, pattern: str) -> str:
    text = httpx.get(url + "/metrics").text
    return next(line for line in text.splitlines() if re.search("^quarrel_" + pattern, line))


@pytest.mark.parametrize(
    "options",
    [
        ("--rollout", "paged"),
        ("--rollout", "nothing:0.5"),
        ("--rollout", "paged:0.5,threads=2"),
        ("--baseline", "paged"),
        ("--rollout", "paged:0.5", "--shadow", "2"),
    ],
)
def test_misuse_is_one_sentence(options, tiny_model_path, state_path, capfd):
    model = str(tiny_model_path("llama3"))
    state = ("--rollout-state", str(state_path))
    assert main(["serve", "-m", model, "--port", "0", *options, *state]) == 2
    assert len(capfd.readouterr().err.splitlines()) == 1
