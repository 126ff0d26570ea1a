"""All commands, each imported when it is asked for."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import typer
import typer.core
import typer.main

from longbow_quarrel.cli.interrupt import InterruptGuard

# Command a-b is the function, or the typer.Typer, a_b of the module a_b beside this one.
NAMES = (
    *("generate", "chat", "info", "models", "pull", "plan"),
    *("perplexity", "bench", "compare-caches", "profile", "validate", "serve", "rollout"),
)

# Rich markup would frame errors in boxes; an error is one sentence.
_PLAIN: dict[str, Any] = {
    "add_completion": False,
    "rich_markup_mode": None,
    "pretty_exceptions_enable": False,
}


def invoke(arguments: list[str], guard: InterruptGuard) -> int:
    """Run a command, with ``guard`` as its context's object.

    Raises:
        KeyboardInterrupt: the user wants no more.
    """
    try:
        code = typer.main.get_command(_app()).main(
            # A list: given nothing, typer would read the arguments of the process.
            arguments,
            prog_name="longbow-quarrel",
            standalone_mode=False,
            obj=guard,
        )
    except typer.Abort:  # this or an exit code of 130, depending on typer's version
        raise KeyboardInterrupt from None
    return code if isinstance(code, int) else 0


class _Commands(dict[str, Any]):
    """Commands by name, as typer knows them."""

    def __init__(self) -> None:
        super().__init__(dict.fromkeys(NAMES))

    def __getitem__(self, name: str) -> Any:
        if super().__getitem__(name) is None:
            self[name] = _load(name)
        return super().__getitem__(name)

    def get(self, name: str, default: Any = None) -> Any:
        return self[name] if name in self else default  # noqa: SIM401 (dict.get sees no __getitem__)


class _Group(typer.core.TyperGroup):
    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        self.commands = _Commands()

    def list_commands(self, _context: Any) -> list[str]:
        return list(NAMES)


def _load(name: str) -> Any:
    home = name.replace("-", "_")
    found = getattr(import_module(f"longbow_quarrel.cli.{home}"), home)
    if isinstance(found, typer.Typer):  # a command with commands of its own
        group = typer.main.get_command(found)
        group.name = name
        return group
    app = typer.Typer(**_PLAIN)
    app.command(name)(found)
    return typer.main.get_command(app)


def _app() -> typer.Typer:
    app = typer.Typer(
        name="longbow-quarrel",
        cls=_Group,
        help="LLM inference for Apple Silicon and plain CPUs.",
        no_args_is_help=False,
        context_settings={"help_option_names": ["-h", "--help"]},
        **_PLAIN,
    )
    app.callback(invoke_without_command=True)(_root)
    return app


def _root(
    context: typer.Context,
    version: bool = typer.Option(False, "--version", help="Print the version and leave."),
) -> None:
    """LLM inference for Apple Silicon and plain CPUs.

    Options are read from flags, then QUARREL_... environment variables, then quarrel.toml in the
    working folder (or the file that QUARREL_CONFIG names).
    """
    if version:
        from longbow_quarrel import __version__

        print(f"longbow-quarrel {__version__}")
    elif context.invoked_subcommand is None:
        print(context.get_help())
