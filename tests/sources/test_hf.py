"""The Hugging Face Hub, played by a stand-in of its HTTP interface."""

from __future__ import annotations

import socket
import time
from pathlib import Path

import pytest

from longbow_quarrel.errors import DownloadError, ModelNotFoundError, UsageError
from longbow_quarrel.sources import hf
from sources.standin import HubStandIn, pseudo_random

MODEL = pseudo_random(800_000, "hub")
SPEC = "owner/repo/tiny.gguf"
FILE = "/owner/repo/resolve/main/tiny.gguf"


def fetch(hub: HubStandIn, cache: Path, spec: str = SPEC, **options: object) -> Path:
    return hf.resolve(spec, endpoint=hub.url, hub_cache=cache, **options)  # type: ignore[arg-type]


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """huggingface_hub repeats a failed request for about 23 seconds; its waits are cut short."""
    sleep = time.sleep
    monkeypatch.setattr(time, "sleep", lambda seconds: sleep(min(seconds, 0.01)))


def test_a_file_is_fetched_into_the_hubs_cache(hub: HubStandIn, tmp_path: Path):
    hub.add("owner/repo", "tiny.gguf", MODEL)
    reports: list[tuple[str, int, int | None]] = []
    path = fetch(hub, tmp_path, progress=lambda *report: reports.append(report))
    assert path.read_bytes() == MODEL
    assert path.is_relative_to(tmp_path)
    assert reports[-1] == ("downloading tiny.gguf", len(MODEL), len(MODEL))
    assert [done for _, done, _ in reports] == sorted(done for _, done, _ in reports)


def test_a_cached_file_is_not_fetched_again(hub: HubStandIn, tmp_path: Path):
    hub.add("owner/repo", "tiny.gguf", MODEL)
    first = fetch(hub, tmp_path)
    hub.seen.clear()
    assert fetch(hub, tmp_path, offline=True) == first
    assert hub.seen == []
    assert fetch(hub, tmp_path) == first
    assert {seen.method for seen in hub.seen} == {"HEAD"}


def test_nothing_is_drawn(hub: HubStandIn, tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    hub.add("owner/repo", "tiny.gguf", MODEL)
    fetch(hub, tmp_path)
    assert capfd.readouterr() == ("", "")


def test_a_file_in_a_folder(hub: HubStandIn, tmp_path: Path):
    hub.add("owner/repo", "Q4/tiny.gguf", MODEL)
    assert fetch(hub, tmp_path, "owner/repo/Q4/tiny.gguf").read_bytes() == MODEL


def test_all_parts_of_a_split_model_are_fetched(hub: HubStandIn, tmp_path: Path):
    for number in (1, 2, 3):
        hub.add("owner/repo", f"big-0000{number}-of-00003.gguf", MODEL + bytes([number]))
    first = fetch(hub, tmp_path, "owner/repo/big-00001-of-00003.gguf")
    assert first.name == "big-00001-of-00003.gguf"
    for number in (1, 2, 3):
        part = first.with_name(f"big-0000{number}-of-00003.gguf")
        assert part.read_bytes() == MODEL + bytes([number])


def test_a_cut_connection_is_resumed(hub: HubStandIn, tmp_path: Path):
    hub.add("owner/repo", "tiny.gguf", MODEL).cut_after = [400_000]
    assert fetch(hub, tmp_path).read_bytes() == MODEL


def test_offline_without_the_file(hub: HubStandIn, tmp_path: Path):
    hub.add("owner/repo", "tiny.gguf", MODEL)
    with pytest.raises(DownloadError, match="offline mode forbids"):
        fetch(hub, tmp_path, offline=True)
    assert hub.seen == []


def test_an_unknown_repository(hub: HubStandIn, tmp_path: Path):
    with pytest.raises(ModelNotFoundError, match=r"repository nobody/none.*hf auth login"):
        fetch(hub, tmp_path, "nobody/none/x.gguf")


def test_an_unknown_file_is_met_with_near_names(hub: HubStandIn, tmp_path: Path):
    hub.add("owner/repo", "tiny-Q4_0.gguf", MODEL)
    hub.add("owner/repo", "README.md", b"")
    with pytest.raises(ModelNotFoundError, match=r"tiny-Q4\.gguf: it has tiny-Q4_0\.gguf\."):
        fetch(hub, tmp_path, "owner/repo/tiny-Q4.gguf")


@pytest.mark.usefixtures("impatient")
def test_an_unknown_file_without_a_list(hub: HubStandIn, tmp_path: Path):
    hub.add("owner/repo", "tiny.gguf", MODEL)
    for path in ("/api/models/owner/repo/tree/main", "/api/models/owner/repo"):
        hub.resources[path].status = 500
        hub.resources[path].body = b""
    with pytest.raises(ModelNotFoundError, match=r"no file other\.gguf: look at its file list"):
        fetch(hub, tmp_path, "owner/repo/other.gguf")


def test_a_gated_repository_says_how_to_log_in(hub: HubStandIn, tmp_path: Path):
    hub.refuse("owner/gated", "tiny.gguf", 403, "GatedRepo")
    with pytest.raises(ModelNotFoundError, match=r"is gated: accept its terms.*hf auth login"):
        fetch(hub, tmp_path, "owner/gated/tiny.gguf")


@pytest.mark.usefixtures("impatient")
def test_a_broken_server(hub: HubStandIn, tmp_path: Path):
    hub.refuse("owner/repo", "tiny.gguf", 500, "")
    with pytest.raises(DownloadError, match=r"owner/repo/tiny\.gguf could not be fetched"):
        fetch(hub, tmp_path)


@pytest.mark.usefixtures("impatient")
def test_no_network(tmp_path: Path):
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # a port where nobody listens
        endpoint = f"http://127.0.0.1:{nobody.getsockname()[1]}"
        with pytest.raises(DownloadError, match=r"check the network .* path of a \.gguf file"):
            hf.resolve(SPEC, endpoint=endpoint, hub_cache=tmp_path)


def test_a_callback_that_stops_the_download(hub: HubStandIn, tmp_path: Path):
    hub.add("owner/repo", "tiny.gguf", MODEL)

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch(hub, tmp_path, progress=stop)


@pytest.mark.parametrize(
    "spec",
    ["", "repo", "owner/repo", "owner/repo/", "a/b/../c", "/a/b/c", "a//c", "a/b/c\\d", "a/b/~"],
)
def test_malformed_specs_are_refused(spec: str):
    with pytest.raises(UsageError, match="write hf:OWNER/REPO/FILE"):
        hf.resolve(spec)


def test_names_that_the_hub_does_not_allow(hub: HubStandIn, tmp_path: Path):
    with pytest.raises(UsageError, match="no repository name"):
        fetch(hub, tmp_path, "owner/re--po/x.gguf")
