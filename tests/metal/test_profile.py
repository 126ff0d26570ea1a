"""``profile`` on Metal: kernels have a track of their own, and a step is captured for Xcode."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from longbow_quarrel.cli import main


@pytest.mark.usefixtures("rig")
def test_on_metal_a_step_is_captured(
    tiny_model_path: Callable[[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trace, capture = tmp_path / "trace.json", tmp_path / "step.gputrace"
    sizes = ("-m", str(tiny_model_path("llama3")), "-n", "2", "-c", "128", "--device", "metal")
    assert main(["profile", "Hi", *sizes, "-o", str(trace), "--gputrace", str(capture)]) == 0
    assert "attention_prefill" in capture.read_text()
    assert "open it with Xcode" in capsys.readouterr().out
    events = json.loads(trace.read_text())["traceEvents"]
    tracks = {e["args"]["name"]: e["tid"] for e in events if e["name"] == "thread_name"}
    gpu = [e for e in events if e["ph"] == "X" and e["tid"] == tracks["GPU"] and e["pid"] == 1]
    kernels = {e["name"] for e in gpu}
    assert "attention_decode" in kernels
    assert any(name.startswith("attention_prefill") for name in kernels)
    for before, after in zip(gpu, gpu[1:], strict=False):  # noqa: RUF007
        assert before["ts"] + before["dur"] <= after["ts"] + 0.0005
    waits = [e for e in events if e["ph"] == "X" and e["name"] in ("encode", "wait")]
    assert len(waits) == 2 * 2
