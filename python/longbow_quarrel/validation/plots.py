"""Pictures of a validation, as SVG."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, cast

from longbow_quarrel.validation.results import Check, Report

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_STYLE = {
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "longbow-quarrel",  # equal figures give equal files
    "font.size": 9,
    "axes.grid": True,
    "grid.alpha": 0.3,
    "lines.markersize": 4,
}
_INCHES = (6.4, 3.2)


def draw(report: Report) -> dict[str, str]:
    """SVG text by name; only of what was measured."""
    checks = {(m.model, c.name): c for m in report.models for c in m.checks}

    def of(name: str) -> list[tuple[str, Check]]:
        return [(model, c) for (model, other), c in checks.items() if other == name and c.rows]

    pictures = {}
    if divergences := of("KL divergence by depth"):
        pictures["divergence"] = _picture(lambda axes: _divergence(axes, divergences))
    if speeds := of("speed"):
        pictures["speed"] = _picture(
            lambda axes: _speed(axes, speeds),
            (_INCHES[0], 0.8 + 0.17 * sum(len(check.rows) for _, check in speeds)),
        )
    if ratios := of("beside llama.cpp"):
        pictures["llamacpp"] = _picture(lambda axes: _ratio(axes, ratios))
    return pictures


def _picture(fill: Callable[[Axes], None], inches: tuple[float, float] = _INCHES) -> str:
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(cast(Any, _STYLE)):  # its type lists every key there is
        figure = Figure(figsize=inches, layout="constrained")
        fill(figure.subplots())
        out = io.StringIO()
        figure.savefig(out, format="svg", metadata={"Date": None})
    text = out.getvalue()
    return "\n".join(line.rstrip() for line in text[text.index("<svg") :].splitlines()) + "\n"


def _divergence(axes: Axes, found: Sequence[tuple[str, Check]]) -> None:
    for model, check in found:
        strategy, parts = next(iter(check.facts["by_depth"].items()))
        depths = [math.sqrt(p["first_depth"] * p["last_depth"]) for p in parts]
        for name, style in (("kl_mean", "o-"), ("kl_max", "x:")):
            values = [max(p[name], 1e-9) for p in parts]
            axes.plot(depths, values, style, label=f"{model}, {strategy}, {name[3:]}")
    axes.set(xscale="log", yscale="log", xlabel="depth, tokens", ylabel="KL divergence, nats")
    axes.set_title("from the exact predictions")
    axes.legend(fontsize=7, loc="upper left", bbox_to_anchor=(1, 1))


def _speed(axes: Axes, found: Sequence[tuple[str, Check]]) -> None:
    bars = [
        (f"{model} {r['strategy']} {r['test']} x {r['batch']}", r["tokens/s"], r["baseline"])
        for model, check in found
        for r in check.rows
    ]
    places = range(len(bars))
    axes.barh(places, [speed for _, speed, _ in bars], label="now")
    known = [(i, before) for i, (_, _, before) in enumerate(bars) if before is not None]
    if known:
        axes.plot([b for _, b in known], [i for i, _ in known], "k|", label="baseline")
    axes.set_yticks(places, [name for name, _, _ in bars], fontsize=6)
    axes.invert_yaxis()
    axes.set(xscale="log", xlabel="tokens/s")
    axes.legend(fontsize=7)


def _ratio(axes: Axes, found: Sequence[tuple[str, Check]]) -> None:
    bars = [(f"{model} {r['test']}", r["ratio"]) for model, check in found for r in check.rows]
    axes.barh(range(len(bars)), [ratio for _, ratio in bars])
    axes.axvline(1, color="black", linewidth=1)
    axes.set_yticks(range(len(bars)), [name for name, _ in bars], fontsize=7)
    axes.invert_yaxis()
    axes.set_xlabel("speed, llama.cpp = 1")
