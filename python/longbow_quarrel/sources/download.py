"""Downloads that survive being cut, killed or run twice at once.

Bytes go to ``NAME.partial``; only a complete file whose checksum is right is renamed to ``NAME``.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING
from urllib.parse import urlsplit

from longbow_quarrel.errors import DownloadError
from longbow_quarrel.sources.progress import ProgressCallback

if TYPE_CHECKING:
    import requests

CHUNK_BYTES = 1 << 16
_RETRIED_STATUS = frozenset({408, 425, 429, 500, 502, 503, 504})
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


class StorageError(DownloadError):
    """The local disk is full or cannot be written: another transport would fail as well."""


class ChecksumError(DownloadError):
    """The bytes are complete but wrong: another transport must not paper over it."""


class _Interrupted(Exception):
    """The transfer ended early for a reason that may pass."""


@dataclass(frozen=True)
class HttpSettings:
    """How to reach a server. Proxies and certificates also come from the environment, as
    ``requests`` reads it; ``proxy`` and ``ca_bundle`` come before that."""

    proxy: str | None = None
    ca_bundle: str | None = None
    connect_timeout_seconds: float = 10.0
    read_timeout_seconds: float = 30.0
    attempts: int = 4
    backoff_seconds: float = 0.5


@dataclass(frozen=True)
class RemoteFile:
    """A file behind a URL; ``sha256`` (hex) and ``size_bytes`` are None where nobody said."""

    url: str
    sha256: str | None = None
    size_bytes: int | None = None
    auth: tuple[str, str] | None = None


def storage_error(error: OSError, directory: Path, needed_bytes: int | None) -> StorageError:
    """Explain an error of the local disk: what is needed, where, and how to go elsewhere."""
    if error.errno not in _FULL:
        return StorageError(
            f"[download] cannot write in {directory} ({error.strerror or error}): make it writable "
            "or choose another cache folder with QUARREL_CACHE_DIR."
        )
    need = "more room" if needed_bytes is None else f"{megabytes(needed_bytes)} free"
    return StorageError(
        f"[download] the disk is full ({error.strerror}): {directory} needs {need}; delete "
        "something or choose another cache folder with QUARREL_CACHE_DIR."
    )


def megabytes(size_bytes: int) -> str:
    """``size_bytes`` rounded up to whole megabytes (10^6 bytes), for messages."""
    return f"{-(-size_bytes // 1_000_000)} MB"


@contextmanager
def storage_errors(directory: Path, needed_bytes: int | None = None) -> Iterator[None]:
    """Turn an OSError of the block into a StorageError about ``directory``."""
    try:
        yield
    except OSError as error:
        raise storage_error(error, directory, needed_bytes) from error


def require_space(directory: Path, needed_bytes: int) -> None:
    """Raise StorageError now rather than after minutes if ``directory`` lacks ``needed_bytes``."""
    free_bytes = shutil.disk_usage(directory).free
    if free_bytes < needed_bytes:
        raise StorageError(
            f"[download] {directory} needs {megabytes(needed_bytes)} free and has "
            f"{megabytes(free_bytes)}: delete something or choose another cache folder with "
            "QUARREL_CACHE_DIR."
        )


def sha256_of(path: Path) -> str:
    """Hex SHA-256 of a file, read in chunks."""
    digest = hashlib.sha256()
    with path.open("rb") as handle:
        while chunk := handle.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def publish(temporary: Path, destination: Path) -> None:
    """Move a finished file into place so that a crash leaves either nothing or all of it."""
    with temporary.open("rb") as handle:
        os.fsync(handle.fileno())
    temporary.replace(destination)
    directory = os.open(destination.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


@contextmanager
def exclusive(destination: Path, progress: ProgressCallback) -> Iterator[None]:
    """Hold the right to produce ``destination``; other processes wait here until it is released.

    The lock is the kernel's, so it goes with its process however that ends.
    """
    from filelock import FileLock, Timeout

    lock = FileLock(destination.with_name(f".{destination.name}.lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        progress(f"waiting for another process that fetches {destination.name}", 0, None)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


@contextmanager
def open_session(http: HttpSettings) -> Iterator[requests.Session]:
    """A requests session with this project's name, the given proxy and no content encoding."""
    import requests

    with requests.Session() as session:
        session.headers["User-Agent"] = "longbow-quarrel"
        # A compressed transfer could not be resumed at a byte offset.
        session.headers["Accept-Encoding"] = "identity"
        if http.proxy:
            session.proxies = {"http": http.proxy, "https": http.proxy}
        yield session


def request(
    session: requests.Session,
    remote: RemoteFile,
    http: HttpSettings,
    headers: dict[str, str],
) -> requests.Response:
    """Open a streamed GET.

    Raises:
        DownloadError: the server's certificate is not accepted.
        requests.RequestException: anything that may pass.
    """
    import requests

    try:
        return session.get(
            remote.url,
            headers=headers,
            stream=True,
            timeout=(http.connect_timeout_seconds, http.read_timeout_seconds),
            verify=http.ca_bundle,
            auth=remote.auth,
        )
    except requests.exceptions.SSLError as error:
        raise DownloadError(
            f"[download] the certificate of {host_of(remote.url)} is not accepted ({error}): set "
            "REQUESTS_CA_BUNDLE to your organisation's certificates."
        ) from error


def host_of(url: str) -> str:
    """Host and port of a URL, without credentials, for messages."""
    return urlsplit(url).netloc.rpartition("@")[2]


def fetch(
    remote: RemoteFile,
    destination: Path,
    *,
    http: HttpSettings,
    progress: ProgressCallback,
    description: str,
) -> None:
    """Bring ``remote`` to ``destination``, resuming ``destination.partial`` where it can.

    A partial file of an earlier process is trusted only because the checksum decides at the end;
    where no checksum is known it is thrown away. Wrong bytes after a resume get one fresh start.

    Raises:
        StorageError: no room or no permission.
        ChecksumError: a whole download has the wrong checksum.
        DownloadError: the server cannot be reached or refuses.
    """
    partial = destination.with_name(f"{destination.name}.partial")
    with storage_errors(destination.parent, remote.size_bytes):
        if remote.sha256 and destination.exists() and _is_right(remote, destination):
            return
        if remote.sha256 is None:
            partial.unlink(missing_ok=True)
        resumed = _size_of(partial) > 0
        with open_session(http) as session:
            _transfer(session, remote, partial, http, progress, description)
            if resumed and not _is_right(remote, partial):
                partial.unlink()
                _transfer(session, remote, partial, http, progress, description)
        if not _is_right(remote, partial):
            found = sha256_of(partial)
            partial.unlink()
            raise ChecksumError(
                f"[download] {destination.name} from {host_of(remote.url)} is damaged: expected "
                f"sha256 {remote.sha256}, got {found}; try again, and report it if it stays so."
            )
        publish(partial, destination)


def _size_of(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _is_right(remote: RemoteFile, path: Path) -> bool:
    return remote.sha256 is None or sha256_of(path) == remote.sha256


def _transfer(
    session: requests.Session,
    remote: RemoteFile,
    partial: Path,
    http: HttpSettings,
    progress: ProgressCallback,
    description: str,
) -> None:
    """Repeat until the file is whole; give up after ``attempts`` tries that gained nothing."""
    most, failures = _size_of(partial), 0
    while True:
        try:
            _transfer_once(session, remote, partial, http, progress, description)
            return
        except _Interrupted as error:
            reached = _size_of(partial)
            # Progress resets the count, but only beyond the best so far: a server without ranges
            # that always cuts at the same place must not be asked for ever.
            failures = 1 if reached > most else failures + 1
            most = max(most, reached)
            if failures >= http.attempts:
                raise DownloadError(
                    f"[download] {host_of(remote.url)} could not be reached or stopped sending "
                    f"({error}): check the network or proxy and try again (the download resumes), "
                    "or give the path of a .gguf file as the model."
                ) from error
            time.sleep(http.backoff_seconds * 2 ** (failures - 1))


def _transfer_once(
    session: requests.Session,
    remote: RemoteFile,
    partial: Path,
    http: HttpSettings,
    progress: ProgressCallback,
    description: str,
) -> None:
    import requests

    offset = _resume_offset(remote, partial)
    if offset == remote.size_bytes:
        return
    if remote.size_bytes is not None:
        require_space(partial.parent, remote.size_bytes - offset)
    headers = {"Range": f"bytes={offset}-"} if offset else {}
    try:
        with request(session, remote, http, headers) as response:
            start = _accepted_offset(response, remote, partial, offset)
            with partial.open("r+b" if start else "wb") as handle:
                handle.seek(start)
                handle.truncate()
                _copy(response, handle, start, remote.size_bytes, progress, description)
    except requests.RequestException as error:
        raise _Interrupted(_reason(error)) from error


def _reason(error: Exception) -> str:
    import requests

    if isinstance(error, requests.Timeout):
        return "no answer in time"
    if isinstance(error, requests.ConnectionError | requests.exceptions.ChunkedEncodingError):
        return "connection failed or was cut"
    return str(error) or type(error).__name__


def _resume_offset(remote: RemoteFile, partial: Path) -> int:
    offset = _size_of(partial)
    if remote.size_bytes is not None and offset > remote.size_bytes:
        partial.unlink()
        return 0
    return offset


def _accepted_offset(
    response: requests.Response, remote: RemoteFile, partial: Path, offset: int
) -> int:
    """Where in the file the body begins; raises for every status that brings no body."""
    status = response.status_code
    if status == 200:
        return 0
    if status == 206 and response.headers.get("Content-Range", "").startswith(f"bytes {offset}-"):
        return offset
    if status in (206, 416):
        partial.unlink(missing_ok=True)
        raise _Interrupted(f"the server answered a range request with HTTP {status}")
    if status in _RETRIED_STATUS:
        raise _Interrupted(f"HTTP {status}")
    raise status_error(status, remote.url)


def status_error(status: int, url: str) -> DownloadError:
    """The error for an HTTP status that repeating does not mend."""
    fix = "try again later or give the path of a .gguf file as the model"
    if status in (401, 403, 407):
        fix = "check the credentials in pip's index-url, .netrc or the proxy's settings"
    return DownloadError(
        f"[download] {host_of(url)} answered HTTP {status} for {urlsplit(url).path}: {fix}."
    )


def _copy(
    response: requests.Response,
    handle: IO[bytes],
    start: int,
    size_bytes: int | None,
    progress: ProgressCallback,
    description: str,
) -> None:
    length = response.headers.get("Content-Length")
    total = start + int(length) if length and length.isdecimal() else size_bytes
    done = start
    progress(description, done, total)
    for chunk in response.iter_content(CHUNK_BYTES):
        write(handle, chunk)
        done += len(chunk)
        progress(description, min(done, total or done), total)
    expected = size_bytes if size_bytes is not None else total
    if expected is not None and done < expected:
        raise _Interrupted(f"got {done} of {expected} bytes")


def write(handle: IO[bytes], chunk: bytes) -> None:
    """The one place where received or unpacked bytes reach the disk."""
    handle.write(chunk)
