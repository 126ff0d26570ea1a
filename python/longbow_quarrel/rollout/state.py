"""The file that a rollout leaves behind: its phase, every decision, the evidence.

It is written whole (a new file, ``fsync``, rename) and changed under a lock, so that the server
and ``rollout promote`` or ``rollback`` beside it cannot lose each other's decisions.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Literal

from filelock import FileLock, Timeout
from pydantic import TypeAdapter, ValidationError

from longbow_quarrel.errors import RolloutError
from longbow_quarrel.rollout.evidence import KL_BUCKETS, Evidence
from longbow_quarrel.rollout.guard import Phase

By = Literal["server", "guard", "user"]
_MOST_DECISIONS = 100
_LOCK_SECONDS = 10.0


@dataclass(frozen=True)
class Decision:
    """One change, or the beginning, of a rollout.

    Attributes:
        number: counts up from 1 over the file's life.
        at: UTC, ISO 8601.
        phase: the phase from then on.
        reason: a word: ``started``, ``command``, or why the guard decided.
    """

    number: int
    at: str
    by: By
    phase: Phase
    reason: str
    text: str


@dataclass(frozen=True)
class Server:
    """The server that wrote the file last.

    Attributes:
        applies: when it does what is decided: ``now``, or at its next ``restart``.
    """

    pid: int
    saved_at: str
    applies: Literal["now", "restart"]


@dataclass
class State:
    """A rollout. ``model``, ``baseline`` and ``candidate`` say which; another one starts anew."""

    model: str
    baseline: str
    candidate: str
    share: float
    shadow: float
    phase: Phase = "running"
    decisions: list[Decision] = field(default_factory=list)
    evidence: Evidence = field(default_factory=Evidence)
    findings: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)  # for a promotion
    server: Server | None = None
    version: Literal[1] = 1

    @property
    def last_number(self) -> int:
        return self.decisions[-1].number if self.decisions else 0

    def decide(self, phase: Phase, reason: str, text: str, by: By) -> bool:
        """Move to a phase, if that is a move; False leaves everything as it was.

        What was rolled back is promoted or begun anew by a user only. A new beginning forgets the
        evidence.
        """
        if phase == self.phase or (by != "user" and self.phase == "rolled_back"):
            return False
        if phase == "running":
            self.evidence = Evidence()
            self.findings = []
        self.note(phase, reason, text, by)
        return True

    def note(self, phase: Phase, reason: str, text: str, by: By) -> None:
        """Write a decision down and count it."""
        self.phase = phase
        number = self.last_number + 1
        self.decisions.append(Decision(number, now(), by, phase, reason, text))
        del self.decisions[:-_MOST_DECISIONS]
        self.evidence.n_events[reason] = self.evidence.n_events.get(reason, 0) + 1


class DamagedStateError(RolloutError):
    """The state file is there and cannot be understood."""


class StateFile:
    """Reads and writes a :class:`State`; from any process."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = FileLock(_beside(path, ".lock"), timeout=_LOCK_SECONDS)
        # Taken and given back by different threads of a server.
        self._owner = FileLock(_beside(path, ".server"), timeout=0, thread_local=False)
        self._written: tuple[int, ...] | None = None

    def own(self) -> None:
        """Become the only server that uses the file, until :meth:`disown` or the process ends.

        Raises:
            RolloutError: another one does, or the folder cannot be written.
        """
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._owner.acquire()
        except Timeout:
            raise RolloutError(
                f"{self.path} belongs to a running server; give this one another rollout_state."
            ) from None
        except OSError as e:
            raise _unwritable(self.path, e) from None

    def disown(self) -> None:
        self._owner.release()

    def is_owned(self) -> bool:
        """Whether a server is using the file."""
        try:
            with self._owner.acquire():
                return False
        except (Timeout, OSError):
            return True

    def read(self) -> State | None:
        """What is there, or None.

        Raises:
            DamagedStateError: it is no state, or a later version's.
            RolloutError: it cannot be read.
        """
        try:
            data = self.path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as e:
            raise RolloutError(
                f"{self.path} cannot be read ({e.strerror or e}); make it readable."
            ) from None
        try:
            state = _adapter().validate_json(data)
        except ValidationError as e:
            where = ".".join(str(part) for part in e.errors()[0]["loc"])
            what = f"at {where!r}" if where else "it is no JSON object"
            raise DamagedStateError(
                f"{self.path} is damaged ({what}); remove it to forget the rollout."
            ) from None
        if len(state.evidence.kl_counts) != len(KL_BUCKETS) + 1:
            raise DamagedStateError(
                f"{self.path} is damaged (at 'kl_counts'); remove it to forget the rollout."
            )
        return state

    def update(self, change: Callable[[State | None], State]) -> State:
        """Read, change and write under the lock; what ``change`` raises leaves the file alone.

        Raises:
            DamagedStateError: see :meth:`read`.
            RolloutError: it cannot be written; what was there before stays.
        """
        try:
            with self._lock:
                state = change(self.read())
                self._write(state)
                self._written = _stamp(self.path)
                return state
        except Timeout:
            raise RolloutError(f"{self.path} is locked by another process; try again.") from None
        except OSError as e:
            raise _unwritable(self.path, e) from None

    def is_as_written(self) -> bool:
        """Whether nobody has written the file since this last did."""
        return self._written is not None and _stamp(self.path) == self._written

    def set_aside(self) -> Path:
        """Rename a damaged file, so that somebody can look at it."""
        target = _beside(self.path, ".damaged")
        with suppress(OSError):
            self.path.replace(target)
        return target

    def _write(self, state: State) -> None:
        partial = _beside(self.path, ".partial")
        try:
            with partial.open("wb") as out:
                out.write(_adapter().dump_json(state, indent=2))
                out.flush()
                os.fsync(out.fileno())
            partial.replace(self.path)
        except OSError:
            with suppress(OSError):
                partial.unlink()
            raise
        folder = os.open(self.path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def default_path() -> Path:
    """Where the state lies unless told otherwise, by the habits of the operating system."""
    from platformdirs import user_state_path

    return user_state_path("longbow-quarrel") / "rollout.json"


def now() -> str:
    """The time as the file has it."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def _adapter() -> TypeAdapter[State]:
    return TypeAdapter(State)


def _beside(path: Path, ending: str) -> Path:
    return path.with_name(path.name + ending)


def _stamp(path: Path) -> tuple[int, ...] | None:
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_ino, stat.st_mtime_ns, stat.st_size


def _unwritable(path: Path, error: OSError) -> RolloutError:
    return RolloutError(
        f"{path} cannot be written ({error.strerror or error}); make room or set rollout_state."
    )
