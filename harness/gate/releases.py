"""The releases of a package, as a package index lists them (PEP 503, PEP 691)."""

from __future__ import annotations

import base64
import http.client
import json
import os
import re
import urllib.request
from collections.abc import Iterable, Mapping, Sequence
from html.parser import HTMLParser
from urllib.parse import unquote, urlsplit

from packaging.utils import (
    InvalidSdistFilename,
    InvalidWheelFilename,
    canonicalize_name,
    parse_sdist_filename,
    parse_wheel_filename,
)
from packaging.version import InvalidVersion, Version

from harness.base.errors import BadInput
from harness.base.secrets import redact

PYPI = "https://pypi.org/simple"
INDEX_VARIABLES = ("UV_DEFAULT_INDEX", "UV_INDEX_URL", "PIP_INDEX_URL")
ACCEPTED = "application/vnd.pypi.simple.v1+json, text/html;q=0.5"
INDEX_TIMEOUT = 60
"""How long one index may take to answer."""

_INDEX = re.compile(
    r"([^\s:=]+=)?"  # uv's name for it
    r"(?P<scheme>\w+://)((?P<user>[^\s/]*)@)?"
    r"(?P<place>([^\s/:@\[\]]*|\[[\da-fA-F:.]+\])(:\d+)?(/\S*)?)"
)


def between(good: str, bad: str, releases: Iterable[str]) -> list[str]:
    """`good`, the releases between both, and `bad`, in the order in which a bisection walks them.

    Pre-releases are left out, unless they are an end. `bad` may be older than `good`: that finds
    the release that mended something. Raises BadInput where one of `releases` is no version.
    """
    low, high = sorted((Version(good), Version(bad)))
    inner = {
        v
        for v in map(_version, filter(str.strip, releases))
        if low < v < high and not (v.is_prerelease or v.local)
    }
    ordered = [low, *sorted(inner), high]
    return [str(v) for v in (ordered if Version(good) == low else reversed(ordered))]


def listed(package: str, environ: Mapping[str, str] = os.environ) -> list[str]:
    """Every release of `package` in the index that uv or pip is told to use, else in PyPI.

    Yanked ones are among them: they were used. Raises BadInput where the index cannot be read.
    """
    index, credentials = _index(environ)
    url = f"{index.rstrip('/')}/{canonicalize_name(package)}/"
    try:
        request = urllib.request.Request(url, headers={"Accept": ACCEPTED})
        if credentials:
            # Not to whatever host the index may send us on to.
            request.add_unredirected_header("Authorization", _basic(credentials))
        with urllib.request.urlopen(request, timeout=INDEX_TIMEOUT) as response:
            kind, body = response.headers.get_content_type(), response.read().decode()
        names = file_names(kind, body)
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise BadInput(
            f"The releases of {package} cannot be listed from {redact(url)} "
            f"({redact(str(error))}): name an index by {INDEX_VARIABLES[0]}, or the releases by "
            "--releases A,B,C"
        ) from None
    found = versions(package, names)
    if not found:
        raise BadInput(f"{redact(url)} lists no release of {package}: name them by --releases")
    return found


def _version(text: str) -> Version:
    try:
        return Version(text)
    except InvalidVersion:
        raise BadInput(
            f"--releases: `{text}` is no release: write each one in full, such as "
            "--releases 4.45.2,4.46.0"
        ) from None


def _index(environ: Mapping[str, str]) -> tuple[str, str]:
    """The index's address, and the `user:password` that was in it: urllib takes none there."""
    variable = next((name for name in INDEX_VARIABLES if environ.get(name)), None)
    if variable is None:
        return PYPI, ""
    found = _INDEX.fullmatch(environ[variable].strip())
    if found is None:
        raise BadInput(
            f"{variable} is no address of a package index: write https://host/simple or "
            "https://user:password@host/simple, where a slash in the password is %2F. (It is not "
            "shown because it may hold one.)"
        )
    return found["scheme"] + found["place"], found["user"] or ""


def _basic(credentials: str) -> str:
    user, _, password = credentials.partition(":")
    return "Basic " + base64.b64encode(f"{unquote(user)}:{unquote(password)}".encode()).decode()


def file_names(kind: str, body: str) -> list[str]:
    """Names of the files on an index's page. Raises ValueError where it is no such page."""
    if kind.endswith("json"):
        files = json.loads(body).get("files", ())
        return [str(file["filename"]) for file in files]
    parser = _Links()
    parser.feed(body)
    return parser.names


def versions(package: str, names: Sequence[str]) -> list[str]:
    """The versions of `package` in names of wheels and sdists, oldest first."""
    found = set()
    for name in names:
        try:
            if name.endswith(".whl"):
                project, version, *_ = parse_wheel_filename(name)
            else:
                project, version = parse_sdist_filename(name)
        except (InvalidWheelFilename, InvalidSdistFilename):
            continue  # an egg or an installer
        if project == canonicalize_name(package):
            found.add(version)
    return [str(version) for version in sorted(found)]


class _Links(HTMLParser):
    """The last parts of the addresses of all links."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Called for each tag."""
        address = dict(attrs).get("href") if tag == "a" else None
        if address:
            self.names.append(unquote(urlsplit(address).path.rsplit("/", 1)[-1]))
