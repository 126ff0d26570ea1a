"""Stand-ins on 127.0.0.1 for the servers that models come from, with faults on demand."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import threading
import time
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


def pseudo_random(size_bytes: int, seed: str = "model") -> bytes:
    """Bytes that neither compress nor repeat, the same in every run."""
    return hashlib.shake_256(seed.encode()).digest(size_bytes)


def make_wheel(members: Mapping[str, bytes]) -> bytes:
    """A zip file laid out as a wheel, as far as a model source looks into it."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def make_installable_wheel(project: str, version: str, members: Mapping[str, bytes]) -> bytes:
    """A wheel that pip accepts. It depends on a package that exists nowhere, which must not
    matter."""
    info = f"{project}-{version}.dist-info"
    metadata = (
        f"Metadata-Version: 2.1\nName: {project}\nVersion: {version}\n"
        "Requires-Dist: quarrel-test-no-such-package\n"
    )
    tags = "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    return make_wheel(
        {
            **members,
            f"{info}/METADATA": metadata.encode(),
            f"{info}/WHEEL": tags.encode(),
            f"{info}/RECORD": b"",
        }
    )


@dataclass
class Resource:
    """What one path answers, and how it misbehaves."""

    body: bytes
    headers: dict[str, str] = field(default_factory=dict)
    status: int = 200
    ranges: bool = True
    cut_after: list[int] = field(default_factory=list)  # bytes sent per coming request, then cut
    failures: list[int] = field(default_factory=list)  # status per coming request
    seconds_before: float = 0.0
    seconds_per_chunk: float = 0.0
    chunk_bytes: int = 1 << 16
    gate: threading.Event | None = None  # the second half of the body waits for it
    wants_auth: tuple[str, str] | None = None


@dataclass(frozen=True)
class Seen:
    """A request as it arrived."""

    method: str
    path: str
    headers: dict[str, str]


class StandIn:
    """The server's state: resources by path and the requests seen so far."""

    def __init__(self) -> None:
        self.resources: dict[str, Resource] = {}
        self.seen: list[Seen] = []
        self.url = ""

    def requests_of(self, path: str, method: str = "GET") -> list[Seen]:
        return [seen for seen in self.seen if (seen.method, seen.path) == (method, path)]


class IndexStandIn(StandIn):
    """A package index; :attr:`index_url` is what a user would set as pip's index-url."""

    def __init__(self) -> None:
        super().__init__()
        self._files: dict[str, list[dict[str, Any]]] = {}
        self.html = False

    @property
    def index_url(self) -> str:
        return f"{self.url}/simple/"

    def add(
        self,
        project: str,
        filename: str,
        wheel: bytes,
        *,
        sha256: str | None = None,
        with_hash: bool = True,
        with_size: bool = True,
        yanked: bool = False,
        url: str | None = None,
    ) -> Resource:
        path = f"/files/{project}/{filename}"
        digest = sha256 or hashlib.sha256(wheel).hexdigest()
        self._files.setdefault(project, []).append(
            {
                "filename": filename,
                "url": url or f"../../files/{project}/{filename}",
                "hashes": {"sha256": digest} if with_hash else {},
                **({"size": len(wheel)} if with_size else {}),
                "yanked": yanked,
            }
        )
        self.resources[path] = Resource(wheel, {"Content-Type": "application/octet-stream"})
        self.resources[f"/simple/{project}/"] = self._page(project)
        return self.resources[path]

    def _page(self, project: str) -> Resource:
        files = self._files[project]
        if not self.html:
            page = {"meta": {"api-version": "1.0"}, "name": project, "files": files}
            kind = "application/vnd.pypi.simple.v1+json"
            return Resource(json.dumps(page).encode(), {"Content-Type": kind})
        anchors = [
            f'<a href="{file["url"]}#sha256={file["hashes"].get("sha256", "")}"'
            f"{' data-yanked=bad' if file['yanked'] else ''}>{file['filename']}</a><br>"
            for file in files
        ]
        body = f"<!DOCTYPE html><html><body>{''.join(anchors)}</body></html>"
        return Resource(body.encode(), {"Content-Type": "text/html"})


class HubStandIn(StandIn):
    """The part of the Hugging Face Hub's interface that a file download uses."""

    COMMIT = "0123456789abcdef0123456789abcdef01234567"

    def add(self, repo: str, name: str, body: bytes) -> Resource:
        headers = {"X-Repo-Commit": self.COMMIT, "ETag": f'"{hashlib.sha256(body).hexdigest()}"'}
        resource = Resource(body, headers)
        for revision in ("main", self.COMMIT):
            self.resources[f"/{repo}/resolve/{revision}/{name}"] = resource
        prefix = f"/{repo}/resolve/main/"
        names = [path.removeprefix(prefix) for path in self.resources if path.startswith(prefix)]
        tree = [{"type": "file", "path": item, "size": 1, "oid": "0" * 40} for item in names]
        self.resources[f"/api/models/{repo}/tree/main"] = Resource(
            json.dumps(tree).encode(), {"Content-Type": "application/json"}
        )
        siblings = [{"rfilename": item} for item in names]
        info = {"id": repo, "sha": self.COMMIT, "siblings": siblings, "private": False}
        self.resources[f"/api/models/{repo}"] = Resource(
            json.dumps(info).encode(), {"Content-Type": "application/json"}
        )
        return resource

    def refuse(self, repo: str, name: str, status: int, code: str) -> None:
        self.resources[f"/{repo}/resolve/main/{name}"] = Resource(
            b"", {"X-Error-Code": code, "X-Repo-Commit": self.COMMIT}, status
        )


def _handler(standin: StandIn) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: Any) -> None:
            """Keep the test output clean."""

        def do_HEAD(self) -> None:
            self._answer(with_body=False)

        def do_GET(self) -> None:
            self._answer(with_body=True)

        def _answer(self, with_body: bool) -> None:
            path = self.path.partition("?")[0]
            standin.seen.append(Seen(self.command, path, dict(self.headers.items())))
            missing = Resource(b"not here", {"X-Error-Code": self._missing_code(path)}, 404)
            resource = standin.resources.get(path, missing)
            time.sleep(resource.seconds_before)
            status = resource.failures.pop(0) if resource.failures else resource.status
            if resource.wants_auth is not None:
                pair = base64.b64encode(":".join(resource.wants_auth).encode()).decode()
                if self.headers.get("Authorization") != f"Basic {pair}":
                    status = 401
            start = self._start(resource) if status == 200 else 0
            if status == 200 and start >= len(resource.body) > 0:
                status, start = 416, 0
            self._send(resource, status, start, with_body)

        def _missing_code(self, path: str) -> str:
            repo = "/".join(path.split("/")[1:3])
            return "EntryNotFound" if f"/api/models/{repo}" in standin.resources else "RepoNotFound"

        def _start(self, resource: Resource) -> int:
            wanted = self.headers.get("Range", "")
            return int(wanted[6:].partition("-")[0]) if resource.ranges and wanted else 0

        def _send(self, resource: Resource, status: int, start: int, with_body: bool) -> None:
            body = resource.body[start:] if status == 200 else b""
            if status != 200 and resource.status == status:
                body = resource.body
            self.send_response(206 if start else status)
            for name, value in resource.headers.items():
                self.send_header(name, value)
            if start:
                end = len(resource.body)
                self.send_header("Content-Range", f"bytes {start}-{end - 1}/{end}")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if with_body:
                self._send_body(resource, body)

        def _send_body(self, resource: Resource, body: bytes) -> None:
            limit = resource.cut_after.pop(0) if resource.cut_after else len(body)
            try:
                for offset in range(0, min(limit, len(body)), resource.chunk_bytes):
                    end = min(offset + resource.chunk_bytes, limit)
                    if resource.gate is not None and end > len(resource.body) // 2:
                        resource.gate.wait(timeout=60)
                    self.wfile.write(body[offset:end])
                    time.sleep(resource.seconds_per_chunk)
            except (BrokenPipeError, ConnectionResetError):
                limit = 0
            if limit < len(body):
                self.close_connection = True

    return Handler


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that was killed is part of the tests."""


@contextmanager
def serving(standin: StandIn) -> Iterator[None]:
    """Serve ``standin`` on a free port of 127.0.0.1 and set its ``url``."""
    server = _Server(("127.0.0.1", 0), _handler(standin))
    standin.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
