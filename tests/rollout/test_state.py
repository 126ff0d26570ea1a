"""The state file: whole or not at all, damaged, full disk, two processes; beside a naive twin."""

from __future__ import annotations

import errno
import json
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from longbow_quarrel.config import EngineConfig, RolloutConfig
from longbow_quarrel.errors import RolloutError
from longbow_quarrel.rollout.control import Control
from longbow_quarrel.rollout.evidence import Comparison
from longbow_quarrel.rollout.spec import Plan
from longbow_quarrel.rollout.state import DamagedStateError, State, StateFile

PHASES = {"promote": "promoted", "rollback": "rolled_back", "restart": "running"}


def open_control(path: Path, candidate: str = "paged:0.5", model: str = "m") -> Control:
    bounds = RolloutConfig(rollout=candidate, shadow=0.5)
    plan = Plan.of(EngineConfig(), bounds)
    return Control(plan, bounds, StateFile(path), model=model, exact=True)


def command(path: Path, action: str) -> State:
    def change(found: State | None) -> State:
        assert found is not None
        found.decide(PHASES[action], "command", action, "user")
        return found

    return StateFile(path).update(change)


def read(path: Path) -> State:
    state = StateFile(path).read()
    assert state is not None
    return state


def full_disk(_self: StateFile, _state: State) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_evidence_and_decisions_survive_a_restart(state_path):
    first = open_control(state_path)
    for i in range(40):
        first.assign(f"request-{i}")
    first.compared(Comparison([0.0, 0.5], 1, 0, 0))
    first.sync()
    before = first.evidence
    first.close()
    second = open_control(state_path)
    assert second.phase == "running"
    assert second.evidence == before
    assert sum(before.n_requests.values()) > 40
    second.failed("error", "it broke")
    second.sync()
    second.close()
    third = open_control(state_path)
    assert third.phase == "rolled_back"
    assert not any(third.assign(f"r{i}").candidate for i in range(20))
    assert [d.reason for d in read(state_path).decisions] == ["started", "error"]
    third.close()


def test_another_candidate_starts_anew_and_keeps_the_history(state_path):
    open_control(state_path).close()
    command(state_path, "rollback")
    control = open_control(state_path, "paged:0.5,block_size=32")
    assert control.phase == "running"
    assert [d.phase for d in read(state_path).decisions] == ["running", "rolled_back", "running"]
    control.close()


def test_another_share_goes_on(state_path):
    open_control(state_path).close()
    control = open_control(state_path, "paged:0.9")
    assert [d.reason for d in read(state_path).decisions] == ["started", "share"]
    assert read(state_path).share == 0.9
    control.close()


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b'{"version": 2}', b"\xff\x00", b"null"])
def test_a_damaged_file_keeps_the_candidate_out(state_path, data):
    state_path.write_bytes(data)
    with pytest.raises(DamagedStateError, match="is damaged"):
        StateFile(state_path).read()
    control = open_control(state_path)
    assert control.phase == "rolled_back"
    assert read(state_path).decisions[-1].reason == "state_damaged"
    assert state_path.with_name(state_path.name + ".damaged").read_bytes() == data
    control.close()


def test_every_cut_and_every_missing_key_is_noticed(state_path):
    control = open_control(state_path)
    control.close()
    whole = state_path.read_bytes()
    for n in range(0, len(whole) - 1, 37):
        state_path.write_bytes(whole[:n])
        with pytest.raises(DamagedStateError):
            StateFile(state_path).read()
    for key in ("model", "baseline", "candidate", "share"):
        content: dict[str, Any] = json.loads(whole)
        del content[key]
        state_path.write_text(json.dumps(content))
        with pytest.raises(DamagedStateError, match=key):
            StateFile(state_path).read()


def test_a_full_disk_at_the_start_is_an_error_that_names_the_fix(state_path, monkeypatch):
    monkeypatch.setattr(StateFile, "_write", full_disk)
    with pytest.raises(RolloutError, match=r"No space left on device.*rollout_state"):
        open_control(state_path)


def test_a_full_disk_later_stops_nothing(state_path, monkeypatch):
    control = open_control(state_path)
    before = state_path.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(StateFile, "_write", full_disk)
        control.failed("error", "it broke")
        with pytest.raises(RolloutError):
            control.sync()
        assert control.phase == "rolled_back"
        assert state_path.read_bytes() == before
    control.sync()
    assert read(state_path).phase == "rolled_back"
    control.close()


def test_a_partial_file_is_never_the_file(state_path, monkeypatch):
    control = open_control(state_path)
    before = state_path.read_bytes()

    def power_fails(_descriptor: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr("os.fsync", power_fails)
    with pytest.raises(RolloutError, match="Input/output"):
        control.sync()
    assert state_path.read_bytes() == before
    assert not list(state_path.parent.glob("*.partial"))
    control.close()


def test_a_file_belongs_to_one_server(state_path):
    control = open_control(state_path)
    assert StateFile(state_path).is_owned()
    with pytest.raises(RolloutError, match="another rollout_state"):
        open_control(state_path)
    control.close()
    assert not StateFile(state_path).is_owned()
    open_control(state_path).close()


def test_the_thread_takes_commands_over_and_writes_decisions_at_once(state_path):
    control = open_control(state_path)
    control.start()
    command(state_path, "promote")
    wait_until(lambda: control.phase == "promoted")
    assert control.share == 1.0
    control.failed("error", "it broke")
    wait_until(lambda: read(state_path).phase == "rolled_back")
    control.close()
    assert [d.by for d in read(state_path).decisions] == ["server", "user", "guard"]


def test_nothing_is_written_while_nothing_happens(state_path):
    control = open_control(state_path)
    control.start()
    wait_until(lambda: read(state_path).server is not None)
    before = state_path.stat().st_mtime_ns
    time.sleep(2.5)
    assert state_path.stat().st_mtime_ns == before
    control.assign("one")
    wait_until(lambda: state_path.stat().st_mtime_ns != before)
    control.close()


def wait_until(condition) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


class Twin(RuleBasedStateMachine):
    """A server, users and a disk that fails, beside two words and a list.

    ``phase`` is the server's, ``file`` that of the file; ``pending`` are users' decisions that the
    server has not confirmed by writing.
    """

    @initialize()
    def begin(self) -> None:
        self.folder = Path(tempfile.mkdtemp())
        self.quick = pytest.MonkeyPatch()  # what it is for has a test of its own
        self.quick.setattr("os.fsync", lambda _descriptor: None)
        self.path = self.folder / "rollout.json"
        self.control = open_control(self.path)
        self.phase = self.file = "running"
        self.both = True
        self.pending: list[str] = []
        self.is_news = False  # the server decided something that is not in the file

    def teardown(self) -> None:
        self.control.close()
        self.quick.undo()
        shutil.rmtree(self.folder)

    @rule(action=st.sampled_from(sorted(PHASES)))
    def user_decides(self, action: str) -> None:
        command(self.path, action)
        if PHASES[action] != self.file:
            self.file = PHASES[action]
            self.pending.append(self.file)

    @rule()
    def guard_decides(self) -> None:
        self.control.failed("error", "planted")
        if self.phase != "rolled_back":
            self.phase, self.is_news = "rolled_back", True

    def _merge(self) -> None:
        is_overtaken = self.is_news
        for phase in self.pending:
            if phase != self.phase and not (is_overtaken and phase != "rolled_back"):
                self.phase, self.is_news = phase, True

    @rule()
    def sync(self) -> None:
        self._merge()
        self.control.sync()
        self.file, self.pending, self.is_news = self.phase, [], False

    @rule()
    def sync_on_a_full_disk(self) -> None:
        self._merge()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(StateFile, "_write", full_disk)
            with pytest.raises(RolloutError):
                self.control.sync()

    @rule()
    def crash_and_restart(self) -> None:
        self.control.close()  # without a sync: as if the process had been killed
        self.control = open_control(self.path)
        self.phase, self.pending, self.is_news = self.file, [], False
        self.both = self.phase == "running"

    @rule()
    def damage_and_sync(self) -> None:
        self.path.write_bytes(self.path.read_bytes()[:-7])
        self.control.sync()
        self.file, self.pending, self.is_news = self.phase, [], False

    @rule()
    def damage_and_restart(self) -> None:
        self.path.write_bytes(b"{}")
        self.control.close()
        self.control = open_control(self.path)
        self.phase = self.file = "rolled_back"
        self.pending, self.is_news, self.both = [], False, False

    @precondition(lambda self: self.phase == "rolled_back")
    @rule()
    def engine_lets_go(self) -> None:
        self.control.candidate_has_gone()
        self.both = False

    @rule(name=st.text(max_size=5))
    def request(self, name: str) -> None:
        assignment = self.control.assign(name)
        takes = {
            "running": self.control.plan.takes_candidate(name),
            "promoted": True,
            "rolled_back": False,
        }
        assert assignment.candidate == (self.both and takes[self.phase])
        if assignment.shadow:
            assert self.both
            assert self.phase != "rolled_back"

    @invariant()
    def agrees(self) -> None:
        assert self.control.phase == self.phase
        found = read(self.path)
        assert found.phase == self.file
        numbers = [d.number for d in found.decisions]
        assert numbers == sorted(set(numbers))
        assert not found.decisions or found.decisions[-1].phase == found.phase


Twin.TestCase.settings = settings(max_examples=12, stateful_step_count=20, deadline=None)
TestTwin = Twin.TestCase
