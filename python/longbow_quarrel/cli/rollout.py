"""``rollout``: what a staged rollout has decided and why; decide yourself."""

from __future__ import annotations

import enum
import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from longbow_quarrel.cli.options import Flags, configured
from longbow_quarrel.config import RolloutConfig
from longbow_quarrel.errors import RolloutError

if TYPE_CHECKING:
    from longbow_quarrel.rollout.state import State, StateFile

_OTHERS = tuple(name for name in RolloutConfig.model_fields if name != "rollout_state")


class Action(str, enum.Enum):
    status = "status"
    promote = "promote"
    rollback = "rollback"
    restart = "restart"


_PHASES: dict[Action, Literal["promoted", "rolled_back", "running"]] = {
    Action.promote: "promoted",
    Action.rollback: "rolled_back",
    Action.restart: "running",
}


@configured(RolloutConfig, without=_OTHERS)
def rollout(
    flags: Flags,
    action: Annotated[
        Action,
        typer.Argument(
            help="status explains every decision; promote gives all requests to the candidate, "
            "rollback none, restart the share it had, with the evidence forgotten."
        ),
    ] = Action.status,
    as_json: Annotated[bool, typer.Option("--json", help="Print the state as JSON.")] = False,
) -> None:
    """Show, promote, roll back or restart the rollout of a cache strategy.

    Works on the state file of `serve --rollout`: a running server does what is decided within
    about a second, one that is not when it starts.
    """
    from longbow_quarrel.rollout.state import StateFile, default_path

    path = flags.load(RolloutConfig).rollout_state or default_path()
    file = StateFile(path.expanduser().absolute())
    if action is Action.status:
        state = _existing(file, file.read())
    else:
        before = _existing(file, file.read()).last_number
        state = file.update(lambda found: _decided(file, found, action))
        if state.last_number == before and not as_json:
            print(f"It is {_words(state.phase)} already.")
    if as_json:
        print(json.dumps(asdict(state), indent=2))
    else:
        _print(file, state)


def _existing(file: StateFile, state: State | None) -> State:
    if state is None:
        raise RolloutError(
            f"There is no rollout at {file.path}; start one with `serve --rollout`, or name its "
            "file with --rollout-state."
        )
    return state


def _decided(file: StateFile, found: State | None, action: Action) -> State:
    state = _existing(file, found)
    state.decide(_PHASES[action], "command", f"`rollout {action.value}` asked for it.", "user")
    return state


def _print(file: StateFile, state: State) -> None:
    print(f"{state.candidate} beside {state.baseline}: {_words(state.phase)}")
    print(f"Model: {state.model}")
    print(f"Share of the candidate: {state.share:g}; compared: {state.shadow:g} of all requests")
    print(f"Server: {_server(file, state)}")
    for line in state.findings:
        print(f"- {line}")
    if state.phase == "running" and state.missing:
        print(f"- A promotion still needs {', '.join(state.missing)}.")
    print("Decisions:")
    for d in state.decisions:
        print(f"  {d.number}. {d.at} {_words(d.phase)}, by the {d.by} ({d.reason}): {d.text}")


def _server(file: StateFile, state: State) -> str:
    if state.server is None:
        return "none has run yet"
    saved = f"saved at {state.server.saved_at}"
    if not file.is_owned():
        return f"not running, {saved}; decisions take effect when it starts"
    when = {
        "now": "decisions take effect within about a second",
        "restart": "only one arm is loaded, decisions take effect when it is restarted",
    }[state.server.applies]
    return f"process {state.server.pid}, {saved}; {when}"


def _words(phase: str) -> str:
    return phase.replace("_", " ")
