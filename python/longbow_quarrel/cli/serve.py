"""``serve``: the HTTP server."""

from __future__ import annotations

import signal
import socket
from pathlib import Path
from typing import Annotated

import typer

from longbow_quarrel.cli import loading
from longbow_quarrel.cli.interrupt import InterruptGuard
from longbow_quarrel.cli.options import Flags, checked_text, configured
from longbow_quarrel.config import EngineConfig, RolloutConfig, ServerConfig, SourceConfig
from longbow_quarrel.errors import UsageError

_CACHE = "paged"  # what many texts at once are served from best
_BACKLOG = 2048


@configured(SourceConfig, ServerConfig, EngineConfig, RolloutConfig)
def serve(
    flags: Flags,
    context: typer.Context,
    plugin: Annotated[
        list[str] | None,
        typer.Option(metavar="FILE", help="Python file that registers strategies or policies."),
    ] = None,
) -> None:
    """Serve a model over HTTP, the way OpenAI does.

    Listens on 127.0.0.1:8080 unless told otherwise. The KV cache is `paged` here unless told
    otherwise. Ctrl-C or SIGTERM lets running requests finish.

    With --rollout another cache strategy serves a share of the requests, is compared with the
    baseline, and is rolled back by itself when it does worse.
    """
    server = flags.load(ServerConfig)
    config = flags.load(EngineConfig)
    if "cache" not in config.model_fields_set:
        config = config.model_copy(update={"cache": _CACHE})
    rollout = flags.load(RolloutConfig)
    if rollout.rollout is None and rollout.baseline is not None:
        raise UsageError("--baseline is half of a rollout; name a candidate with --rollout.")
    source = flags.load(SourceConfig)
    name = checked_text(server.alias or _model_name(source.model), "--alias")
    listener = _listen(server)  # before anything slow begins
    with listener:
        if plugin:
            from longbow_quarrel.plugins import load_plugins

            load_plugins(plugin)
        llm = loading.load(source, config, rollout)

        from longbow_quarrel.server import create_app
        from longbow_quarrel.server.run import run

        guard: InterruptGuard = context.obj
        # After draining, uvicorn raises again the signal that ended it: that has been heeded.
        signal.signal(signal.SIGTERM, lambda *_: None)
        with guard.caught():
            run(
                create_app(llm, server, model=name),
                listener,
                drain_seconds=server.drain_timeout,
                ready=lambda: loading.print_notice(f"{name} at {_address(listener)}"),
            )


def _model_name(model: str) -> str:
    """The API's name for a model: a catalogue name as it stands, a file's without its ending."""
    last = model.replace(":", "/").rsplit("/", 1)[-1]
    return last if model.startswith("ollama:") else Path(last).name.removesuffix(".gguf")


def _listen(server: ServerConfig) -> socket.socket:
    family = socket.AF_INET6 if ":" in server.host else socket.AF_INET
    try:
        return socket.create_server((server.host, server.port), family=family, backlog=_BACKLOG)
    except OSError as e:
        raise UsageError(
            f"{server.host}:{server.port} cannot be listened on ({e.strerror or e}); "
            "choose another --host or --port."
        ) from None


def _address(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
