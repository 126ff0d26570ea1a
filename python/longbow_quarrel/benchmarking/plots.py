"""Pictures of a comparison: speed, memory and quality over depth and batch, for every contender."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from longbow_quarrel.benchmarking.comparison import Comparison
from longbow_quarrel.benchmarking.speed import SpeedRow

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FORMATS = ("svg", "png")
_MARKERS = "osD^vP*X<>"
_STYLE: Any = {
    "svg.fonttype": "none",  # text stays text: small files that can be searched
    "svg.hashsalt": "longbow-quarrel",  # equal figures give equal files
    "font.size": 9,
    "axes.grid": True,
    "grid.alpha": 0.3,
    "lines.linewidth": 1.4,
    "lines.markersize": 4,
}
_PANEL_INCHES = (3.4, 2.8)

Value = Callable[[SpeedRow], float]
_SPEED_PLOTS: dict[str, tuple[str, Value]] = {
    "decode-speed": ("decode, tokens/s", lambda r: r.decode_rate or math.nan),
    "time-to-first-token": ("TTFT mean, s", lambda r: r.ttft.mean),
    "inter-token-latency": ("ITL p99, ms", lambda r: 1000 * r.itl.p99),
    "kv-memory": ("KV used, peak, MiB", lambda r: r.kv_used_bytes / 2**20),
    "resident-memory": ("resident, peak, MiB", lambda r: r.peak_resident_bytes / 2**20),
}


def draw(found: Comparison, folder: Path) -> list[Path]:
    """Write every picture as SVG and PNG; the paths of the SVGs.

    Raises:
        OSError: the folder cannot be written to.
    """
    import matplotlib

    matplotlib.use("agg")
    folder.mkdir(parents=True, exist_ok=True)
    with matplotlib.rc_context(_STYLE):
        figures: dict[str, Figure] = {}
        if found.speed:
            for name, (label, value) in _SPEED_PLOTS.items():
                figures[f"{name}-over-depth"] = _over_depth(found, label, value)
                figures[f"{name}-over-batch"] = _over_batch(found, label, value)
        for i, base in enumerate(dict.fromkeys(row.base for row in found.quality)):
            name = "quality-over-depth" + ("-from-file" if i else "")
            figures[name] = _quality(found, base)
        if found.reuse:
            figures["reuse"] = _reuse(found)
        return [_write(figure, folder, name) for name, figure in figures.items()]


def _write(figure: Figure, folder: Path, name: str) -> Path:
    for form in FORMATS:
        metadata = {"Date": None} if form == "svg" else {}
        figure.savefig(folder / f"{name}.{form}", format=form, dpi=110, metadata=metadata)
    return folder / f"{name}.svg"


def _over_depth(found: Comparison, label: str, value: Value) -> Figure:
    """A panel for each batch."""
    batches = sorted({row.batch for row in found.speed})
    figure, panels = _panels(len(batches))
    for panel, batch in zip(panels, batches, strict=True):
        rows = [row for row in found.speed if row.batch == batch]
        _lines(panel, found, rows, lambda r: r.length, value)
        panel.set_title(f"batch {batch}")
        panel.set_xlabel("prompt, tokens")
    return _finish(figure, panels, label)


def _over_batch(found: Comparison, label: str, value: Value) -> Figure:
    """A panel for each length."""
    lengths = sorted({row.length for row in found.speed})
    figure, panels = _panels(len(lengths))
    for panel, length in zip(panels, lengths, strict=True):
        rows = [row for row in found.speed if row.length == length]
        _lines(panel, found, rows, lambda r: r.batch, value)
        panel.set_title(f"prompt {length}")
        panel.set_xlabel("batch, texts")
    return _finish(figure, panels, label)


def _lines(
    panel: Axes,
    found: Comparison,
    rows: Sequence[SpeedRow],
    place: Callable[[SpeedRow], int],
    value: Value,
) -> None:
    for i, name in enumerate(found.contenders):
        own = sorted((r for r in rows if r.contender == name), key=place)
        panel.plot([place(r) for r in own], [value(r) for r in own], **_look(i), label=name)
    places = sorted({place(row) for row in rows})
    _ticks(panel, places)
    panel.set_ylim(bottom=0)


def _quality(found: Comparison, base: str) -> Figure:
    figure, panels = _panels(3)
    quality = [row for row in found.quality if row.base == base]
    depths = sorted({row.depth for row in quality})
    for i, name in enumerate(found.contenders):
        rows = [row for row in quality if row.contender == name]
        places = [row.depth for row in rows]
        # Rounding alone gives some 1e-7; what is below belongs on the axis, not outside.
        floor = 1e-8
        panels[0].plot(places, [max(r.kl_mean, floor) for r in rows], **_look(i), label=name)
        panels[1].plot(places, [100 * r.same_top for r in rows], **_look(i), label=name)
        ratios = [100 * (r.perplexity / r.base_perplexity - 1) for r in rows]
        panels[2].plot(places, ratios, **_look(i), label=name)
    titles = ("KL from the base, nats", "same likeliest token, %", "perplexity over the base's, %")
    panels[0].set_yscale("log")
    for panel, title in zip(panels, titles, strict=True):
        panel.set_title(title)
        panel.set_xlabel("depth, tokens")
        _ticks(panel, depths)
    return _finish(figure, panels, "")


def _reuse(found: Comparison) -> Figure:
    rows = [row for row in found.reuse if row.ttft is not None]
    figure, panels = _panels(2, height=0.9 + 0.3 * len(rows))
    names = [row.contender for row in rows]
    panels[0].barh(names, [100 * row.hit_rate for row in rows], color="C0")
    possible = max((row.possible_tokens / max(row.prompt_tokens, 1) for row in rows), default=0)
    panels[0].axvline(100 * possible, color="black", linestyle="--", linewidth=1)
    panels[0].set_title("hit rate, % (line: nothing evicted)")
    panels[1].barh(names, [row.recomputed_tokens for row in rows], color="C1")
    panels[1].set_title("tokens recomputed")
    panels[1].set_yticklabels([])
    for panel in panels:
        panel.invert_yaxis()
    figure.tight_layout()
    return figure


def _panels(n: int, height: float = _PANEL_INCHES[1]) -> tuple[Figure, list[Axes]]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(_PANEL_INCHES[0] * n, height))
    return figure, list(figure.subplots(1, n, squeeze=False)[0])


def _look(i: int) -> dict[str, Any]:
    return {"marker": _MARKERS[i % len(_MARKERS)], "color": f"C{i % 10}", "alpha": 0.85}


def _ticks(panel: Axes, places: Sequence[int]) -> None:
    panel.set_xscale("log", base=2)
    panel.set_xticks(places, [str(p) for p in places], rotation=45 if len(places) > 5 else 0)
    panel.minorticks_off()


def _finish(figure: Figure, panels: Sequence[Axes], label: str) -> Figure:
    panels[0].set_ylabel(label)
    handles, names = panels[0].get_legend_handles_labels()
    figure.tight_layout(rect=(0, 0.1, 1, 1))
    figure.legend(handles, names, loc="lower center", ncols=min(len(names), 4), frameon=False)
    return figure
