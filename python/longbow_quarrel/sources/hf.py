"""Models on the Hugging Face Hub, through huggingface_hub (its cache, its resume)."""

from __future__ import annotations

import difflib
import errno
import inspect
import re
from pathlib import Path
from typing import Any

from longbow_quarrel.errors import DownloadError, ModelNotFoundError, QuarrelError, UsageError
from longbow_quarrel.sources.download import storage_error
from longbow_quarrel.sources.names import relative_parts
from longbow_quarrel.sources.progress import ProgressCallback, silent

FORM = "hf:OWNER/REPO/FILE.gguf"
_SPLIT = re.compile(r"(?P<stem>.+)-00001-of-(?P<count>\d{5})\.gguf")
_MAX_LISTED = 6
_MAX_PARTS = 999


def resolve(
    spec: str,
    *,
    progress: ProgressCallback | None = None,
    offline: bool = False,
    endpoint: str | None = None,
    hub_cache: Path | None = None,
) -> Path:
    """Return the local path of ``OWNER/REPO/FILE``, downloading it into the hub's cache if needed.

    All parts of a split model are fetched when its first part is named.

    Args:
        spec: the part of the MODEL string after ``hf:``.
        progress: told the bytes received per file.
        offline: use the hub's cache only.
        endpoint: base URL of the hub; None leaves the choice to huggingface_hub (HF_ENDPOINT).
        hub_cache: cache folder; None leaves the choice to huggingface_hub (HF_HOME).

    Raises:
        UsageError: ``spec`` is malformed.
        ModelNotFoundError: no such repository or file, or the repository is gated or private.
        DownloadError: no network, an error of the server, or no room on the disk.
    """
    parts = relative_parts(spec, spec=f"hf:{spec}", form=FORM)
    if len(parts) < 3:
        raise UsageError(f"[hf] 'hf:{spec}' does not name a file in a repository: write {FORM}.")
    repo, first = "/".join(parts[:2]), "/".join(parts[2:])
    paths = [
        _fetch(repo, name, progress or silent, offline, endpoint, hub_cache)
        for name in _file_names(first)
    ]
    return paths[0]


def _file_names(first: str) -> list[str]:
    split = _SPLIT.fullmatch(first)
    if split is None or not 1 <= int(split["count"]) <= _MAX_PARTS:
        return [first]
    count = split["count"]
    return [f"{split['stem']}-{number:05d}-of-{count}.gguf" for number in range(1, int(count) + 1)]


def _fetch(
    repo: str,
    name: str,
    progress: ProgressCallback,
    offline: bool,
    endpoint: str | None,
    hub_cache: Path | None,
) -> Path:
    from huggingface_hub import hf_hub_download  # half a second of imports, needed here only

    options: dict[str, Any] = {}
    if "tqdm_class" in inspect.signature(hf_hub_download).parameters:
        options["tqdm_class"] = _progress_class(f"downloading {name}", progress)
    try:
        path = hf_hub_download(
            repo,
            name,
            cache_dir=hub_cache,
            local_files_only=offline,
            endpoint=endpoint,
            library_name="longbow-quarrel",
            **options,
        )
    except QuarrelError:  # raised by the progress callback
        raise
    except Exception as error:
        # The HTTP library behind huggingface_hub, and with it the exceptions of a lost connection,
        # differs between the hub's versions; nothing narrower covers them.
        raise _explained(error, repo, name, offline, endpoint) from error
    return Path(str(path))


def _progress_class(description: str, progress: ProgressCallback) -> type[Any]:
    from huggingface_hub.utils.tqdm import tqdm

    class Reporter(tqdm):
        """Counts like tqdm, draws nothing, reports to the callback."""

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            kwargs["disable"] = True
            super().__init__(*args, **kwargs)  # type: ignore[no-untyped-call]
            self.done_bytes = int(kwargs.get("initial") or 0)

        def update(self, n: float | None = 1) -> None:
            self.done_bytes += int(n or 0)
            total = getattr(self, "total", None)
            progress(description, self.done_bytes, int(total) if total else None)

    return Reporter


def _explained(
    error: Exception, repo: str, name: str, offline: bool, endpoint: str | None
) -> QuarrelError:
    from huggingface_hub import errors as hub

    if isinstance(error, hub.HFValidationError):
        return UsageError(f"[hf] {repo!r} is no repository name ({error}): write {FORM}.")
    if isinstance(error, hub.GatedRepoError):
        return ModelNotFoundError(
            f"[hf] {repo} is gated: accept its terms on the model's page, then log in with "
            "`hf auth login` or set HF_TOKEN."
        )
    if isinstance(error, hub.RepositoryNotFoundError):
        return ModelNotFoundError(
            f"[hf] there is no public repository {repo}: check the spelling, or log in with "
            "`hf auth login` or set HF_TOKEN if it is private."
        )
    if isinstance(error, hub.LocalEntryNotFoundError):
        return _unreachable(error, repo, name, offline)
    if isinstance(error, hub.EntryNotFoundError):
        return ModelNotFoundError(_missing_file_message(repo, name, endpoint))
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return storage_error(error, Path(error.filename or "the Hugging Face cache"), None)
    return _unreachable(error, repo, name, offline)


def _unreachable(error: Exception, repo: str, name: str, offline: bool) -> DownloadError:
    if offline:
        return DownloadError(
            f"[hf] {repo}/{name} is not in the Hugging Face cache and offline mode forbids "
            "fetching it: run once without offline mode, or give the path of a .gguf file."
        )
    reason = str(error.__cause__ or error).strip().splitlines() or [type(error).__name__]
    return DownloadError(
        f"[hf] {repo}/{name} could not be fetched ({reason[0]}): check the network or proxy and "
        "try again (the download resumes), or give the path of a .gguf file."
    )


def _missing_file_message(repo: str, name: str, endpoint: str | None) -> str:
    present = [file for file in _repo_files(repo, endpoint) if file.endswith(".gguf")]
    if not present:
        return f"[hf] {repo} has no file {name}: look at its file list for a .gguf file."
    near = difflib.get_close_matches(name, present, n=_MAX_LISTED, cutoff=0.3) or present
    return f"[hf] {repo} has no file {name}: it has {', '.join(near[:_MAX_LISTED])}."


def _repo_files(repo: str, endpoint: str | None) -> list[str]:
    from huggingface_hub import HfApi

    try:
        return list(HfApi(endpoint=endpoint).list_repo_files(repo))
    except Exception:  # names are a courtesy: the error about the missing file matters more
        return []
