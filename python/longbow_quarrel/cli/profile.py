"""``profile``: where the time of a workload goes."""

from __future__ import annotations

import dataclasses
import json
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from longbow_quarrel.cli import loading
from longbow_quarrel.cli.options import Flags, checked_text, configured
from longbow_quarrel.config import EngineConfig, GenerationConfig, SourceConfig
from longbow_quarrel.errors import UsageError

if TYPE_CHECKING:
    from longbow_quarrel import LLM, SamplingParams
    from longbow_quarrel.profiling import HotSpot, Summary

_PROMPT = "Explain the KV cache of a language model, step by step."
_WARM_UP = "Nothing of this is asked for later."
_CACHE = "paged"  # as `serve`


class Workload(str, Enum):
    """What is run."""

    prompt = "prompt"
    chat = "chat"
    serve = "serve"


@configured(SourceConfig, GenerationConfig, EngineConfig)
def profile(
    flags: Flags,
    prompt: Annotated[
        str | None, typer.Argument(metavar="PROMPT", help="For the workload `prompt`.")
    ] = None,
    workload: Annotated[
        Workload,
        typer.Option(
            "-w",
            "--workload",
            help="One text; a conversation of three turns; or many texts at once, half of which "
            "begin alike.",
        ),
    ] = Workload.prompt,
    trace: Annotated[
        Path,
        typer.Option(
            "-o", "--trace", metavar="FILE", help="The trace; compressed if it ends with .gz."
        ),
    ] = Path("trace.json.gz"),
    clients: Annotated[int, typer.Option("--clients", metavar="N", min=1, help="Of `serve`.")] = 16,
    seconds: Annotated[
        float, typer.Option("--seconds", metavar="X", min=0, help="That `serve` goes on for.")
    ] = 30.0,
    prompt_tokens: Annotated[
        int, typer.Option("--prompt-tokens", metavar="N", min=2, help="Longest prompt of `serve`.")
    ] = 256,
    spans: Annotated[
        int,
        typer.Option(
            "--spans", metavar="N", min=1, help="The last spans of each thread go to the trace."
        ),
    ] = 1 << 17,
    top: Annotated[int, typer.Option("--top", metavar="N", min=1, help="Lines to print.")] = 20,
    gputrace: Annotated[
        Path | None,
        typer.Option(
            "--gputrace",
            metavar="FILE",
            help="Also record a step on a Mac's GPU for Xcode; needs METAL_CAPTURE_ENABLED=1.",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Run a workload, write a trace for https://ui.perfetto.dev, and print the hot spots.

    A short text is generated before, unrecorded, so that what is loaded lazily is loaded. Texts are
    greedy and never end early. The KV cache is `paged` unless told otherwise.
    """
    if prompt is not None and workload is not Workload.prompt:
        raise UsageError(f"The workload {workload.value} takes no PROMPT; leave it out.")
    text = checked_text(prompt or _PROMPT, "The prompt")
    config = flags.load(EngineConfig)
    if "cache" not in config.model_fields_set:
        config = config.model_copy(update={"cache": _CACHE})
    generation = flags.load(GenerationConfig)
    _check_folder(trace)

    from longbow_quarrel import SamplingParams

    values = generation.model_dump() | {"temperature": 0.0}
    params = SamplingParams(**values, ignore_eos=True)
    llm = loading.load(flags.load(SourceConfig), config)
    if gputrace is not None:
        _check_metal(llm)

    from longbow_quarrel import profiling

    load = _Load(llm, workload, text, clients, prompt_tokens)
    llm.generate(_WARM_UP, SamplingParams(max_tokens=2, temperature=0.0))
    with (
        loading.spinner(f"Recording the workload {workload.value}"),
        profiling.Recorder(llm.engine, spans=spans) as recorder,
    ):
        load.run(params, seconds)
    if gputrace is not None:
        _capture(llm, gputrace)
    recording = recorder.recording
    n_events = profiling.write_trace(recording, trace)
    rows, figures = profiling.hot_spots(recording), profiling.summary(recording)
    if as_json:
        print(json.dumps(_report(llm, workload, rows, figures) | {"trace": str(trace)}, indent=2))
        return
    _print(rows[:top], figures)
    print(f"\n{n_events} events in {trace}; open it at https://ui.perfetto.dev")
    if gputrace is not None:
        print(f"one step on the GPU in {gputrace}; open it with Xcode")


@dataclasses.dataclass(frozen=True)
class _Load:
    llm: LLM
    workload: Workload
    text: str
    clients: int
    n_prompt: int

    def run(self, params: SamplingParams, seconds: float) -> None:
        from longbow_quarrel import profiling

        if self.workload is Workload.prompt:
            profiling.prompt_load(self.llm, self._prompt_ids(), params)
        elif self.workload is Workload.chat:
            profiling.chat_load(self.llm, params)
        else:
            profiling.serve_load(
                self.llm.engine,
                clients=self.clients,
                seconds=seconds,
                n_prompt=self.n_prompt,
                max_tokens=params.max_tokens,
            )

    def _prompt_ids(self) -> list[int]:
        if self.llm.has_chat_template:
            return self.llm.encode_chat([{"role": "user", "content": self.text}])
        return self.llm.tokenize(self.text)


def _check_folder(trace: Path) -> None:
    if not trace.parent.is_dir():
        raise UsageError(f"{trace.parent} is no folder; choose another --trace.")


def _check_metal(llm: LLM) -> None:
    if llm.engine.runner.device.name != "metal":
        raise UsageError("--gputrace needs the GPU of a Mac; leave it out or use --device metal.")


def _capture(llm: LLM, file: Path) -> None:
    """The first step of a short text, after what was measured: recording slows it down."""
    from longbow_quarrel import SamplingParams, _core

    device: Any = llm.engine.runner.device
    assert not isinstance(device, _core.CpuDevice)
    device.capture_next_step(str(file))
    llm.generate([llm.tokenize(_PROMPT)], SamplingParams(max_tokens=1, temperature=0.0))


def _report(
    llm: LLM, workload: Workload, rows: list[HotSpot], figures: Summary
) -> dict[str, object]:
    return {
        "model": llm.path.name,
        "workload": workload.value,
        "config": {
            k: str(v) if isinstance(v, Path) else v for k, v in llm.config.model_dump().items()
        },
        "engine": llm.stats(),
        **dataclasses.asdict(figures),
        "hot_spots": [dataclasses.asdict(row) for row in rows],
    }


def _print(rows: list[HotSpot], figures: Summary) -> None:
    header = ("what", "phase", "runs", "seconds", "share", "each", "busy")
    lines = [header, *map(_cells, rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(header))]
    for line in lines:
        cells = [
            c.ljust(w) if i < 2 else c.rjust(w)
            for i, (c, w) in enumerate(zip(line, widths, strict=True))
        ]
        print("  ".join(cells).rstrip())
    steps = ", ".join(
        f"{n} {phase} steps with {figures.tokens[phase]} tokens"
        for phase, n in figures.steps.items()
    )
    print(f"\n{figures.seconds:.2f} s: {steps}")
    if figures.busy:
        busy = ", ".join(f"{name} {share:.0%}" for name, share in figures.busy.items())
        print(f"busy during steps: {busy}")
    if figures.lost_spans:
        print(f"{figures.lost_spans} older spans are not in the trace; --spans keeps more")


def _cells(row: HotSpot) -> tuple[str, ...]:
    each = f"{1e6 * row.seconds / row.n_runs:.1f} us" if row.n_runs else ""
    busy = "" if row.busy is None else f"{row.busy:.0%}"
    runs = str(row.n_runs) if row.n_runs else ""
    return (row.name, row.phase, runs, f"{row.seconds:.3f}", f"{row.share:.1%}", each, busy)
