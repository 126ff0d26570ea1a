"""A real Prometheus scrapes the server under load; what deploy/ asks of it has answers."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from longbow_quarrel.telemetry.registry import METRICS, PREFIX
from server.conftest import tiny_llm
from server.running import Running, free_port

DEPLOY = Path(__file__).parents[2] / "deploy"
DASHBOARD = json.loads((DEPLOY / "grafana" / "longbow-quarrel.json").read_text())
QUERIES = [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]
PATIENCE_SECONDS = 60


def _tool(name: str) -> str:
    path = shutil.which(name)
    if path is None and os.environ.get("CI"):
        pytest.fail(f"{name} is missing; run `apt install prometheus`.")
    if path is None:
        pytest.skip(f"{name} is missing; run `apt install prometheus` for this test")
    return path


@pytest.mark.parametrize(
    "arguments",
    [
        ("check", "rules", "rules.yml", "alerts.yml"),
        ("check", "config", "prometheus.yml"),
    ],
)
def test_promtool_accepts(arguments):
    result = subprocess.run([_tool("promtool"), *arguments], cwd=DEPLOY, capture_output=True)
    assert result.returncode == 0, result.stderr.decode()


def test_alerts_fire_when_they_should_and_only_then(tmp_path):
    """On series made up for it; every alert is among those tested."""
    cases = Path(__file__).parent / "alerts_test.yml"
    for path in (cases, DEPLOY / "rules.yml", DEPLOY / "alerts.yml"):
        shutil.copy(path, tmp_path)
    command = [_tool("promtool"), "test", "rules", cases.name]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    alerts = re.findall(r"alert: (\w+)", (DEPLOY / "alerts.yml").read_text())
    assert set(alerts) == set(re.findall(r"alertname: (\w+)", cases.read_text()))


def test_rules_and_dashboard_name_metrics_that_exist():
    known = {PREFIX + m.name for m in METRICS}
    histograms = {PREFIX + m.name for m in METRICS if m.kind == "histogram"}
    known |= {h + suffix for h in histograms for suffix in ("_bucket", "_sum", "_count")}
    text = " ".join([*QUERIES, *(p.read_text() for p in DEPLOY.glob("*.yml"))])
    words = {word for word in _words(text) if word.startswith(PREFIX)}
    assert words
    assert words <= known


def test_the_dashboard_shows_every_metric():
    shown = " ".join(QUERIES)
    assert [m.name for m in METRICS if PREFIX + m.name not in shown] == []


def test_every_query_has_an_answer(serve, tmp_path):
    _tool("prometheus")
    bytes_per_token = tiny_llm().engine.runner.kv_bytes_per_token
    # Too little room, so that there are preemptions, evictions and refusals to show.
    crowded = serve(tiny_llm(kv_cache_memory=bytes_per_token * 160), max_queue=1)
    with _prometheus(crowded, tmp_path) as url, _load(crowded):
        open_queries = {q: _plain(q) for q in [*QUERIES, *_recorded()]}
        deadline = time.monotonic() + PATIENCE_SECONDS
        while open_queries and time.monotonic() < deadline:
            time.sleep(0.5)
            open_queries = {q: e for q, e in open_queries.items() if not _has_data(url, e)}
        assert list(open_queries) == []
        groups = httpx.get(url + "/api/v1/rules").json()["data"]["groups"]
        rules = [rule for group in groups for rule in group["rules"]]
        assert [r["name"] for r in rules if r["health"] != "ok"] == []
        assert len(rules) == 12


@contextmanager
def _prometheus(server: Running, folder: Path) -> Iterator[str]:
    for name in ("rules.yml", "alerts.yml"):
        shutil.copy(DEPLOY / name, folder)
    text = (DEPLOY / "prometheus.yml").read_text()
    text = text.replace("127.0.0.1:8080", server.url.removeprefix("http://"))
    (folder / "prometheus.yml").write_text(text.replace(": 5s", ": 500ms"))
    port = free_port()
    process = subprocess.Popen(
        [
            _tool("prometheus"),
            f"--config.file={folder / 'prometheus.yml'}",
            f"--storage.tsdb.path={folder / 'data'}",
            f"--web.listen-address=127.0.0.1:{port}",
        ],
        stdout=subprocess.DEVNULL,
        stderr=(folder / "log").open("wb"),
    )
    try:
        url = f"http://127.0.0.1:{port}"
        _wait_until_ready(url, process, folder / "log")
        yield url
    finally:
        process.terminate()
        process.wait(30)


def _wait_until_ready(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        try:
            if httpx.get(url + "/-/ready").status_code == 200:
                return
        except httpx.ConnectError:
            pass
        time.sleep(0.1)
    pytest.fail(log.read_text())


@contextmanager
def _load(server: Running) -> Iterator[None]:
    """Callers who do not wait after a refusal, and ask for more than there is room for."""
    stop = threading.Event()

    def call(i: int) -> None:
        with httpx.Client(timeout=60) as client:
            k = 0
            while not stop.is_set():
                k += 1
                prompt = [5 + (i + k) % 40] * 20
                body = {"prompt": prompt, "max_tokens": 60, "temperature": 0, "ignore_eos": True}
                client.post(server.url + "/v1/completions", json=body)
                time.sleep(0.02)

    threads = [threading.Thread(target=call, args=(i,)) for i in range(7)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def _plain(query: str) -> str:
    """What Grafana makes of a query when all models are shown."""
    return query.replace("$__rate_interval", "4s").replace("$model", ".*")


def _recorded() -> list[str]:
    lines = (DEPLOY / "rules.yml").read_text().splitlines()
    return [line.split("record:")[1].strip() for line in lines if "record:" in line]


def _has_data(url: str, query: str) -> bool:
    answer = httpx.get(url + "/api/v1/query", params={"query": query}).json()
    assert answer["status"] == "success", (query, answer)
    values = [float(series["value"][1]) for series in answer["data"]["result"]]
    return any(not math.isnan(value) for value in values)


def _words(text: str) -> set[str]:
    return set("".join(c if c.isalnum() or c == "_" else " " for c in text).split())
