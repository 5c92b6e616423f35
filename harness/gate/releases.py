"""The releases of a package, as a package index lists them (PEP 503, PEP 691)."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence

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
from harness.environments.listings import Unreadable, addresses, name_of
from harness.environments.wheels import WheelSource, wheel_of
from harness.environments.wheels import listed as listed_wheels

PYPI = "https://pypi.org/simple"
INDEX_VARIABLES = ("UV_DEFAULT_INDEX", "UV_INDEX_URL", "PIP_INDEX_URL")

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


def of_one_list(good: WheelSource, bad: WheelSource) -> list[WheelSource]:
    """`good`, the wheels that their list has between both, and `bad`, in the order of a bisection.

    Nightlies are pre-releases, and are what is searched. Raises BadInput where both are not of one
    folder or page.
    """
    if good.place != bad.place or not good.is_list:
        raise BadInput(
            f"{good} and {bad}: name two wheels of one folder or page, by PLACE@VERSION or "
            "PLACE@YYYYMMDD"
        )
    low, high = sorted(wheel_of(end).version for end in (good, bad))
    inner = {w.version for w in listed_wheels(good) if low <= w.version <= high}
    ordered = sorted(inner)
    if wheel_of(good).version != low:
        ordered.reverse()
    return [good.of(str(version)) for version in ordered]


def listed(package: str, environ: Mapping[str, str] = os.environ) -> list[str]:
    """Every release of `package` in the index that uv or pip is told to use, else in PyPI.

    Yanked ones are among them: they were used. Raises BadInput where the index cannot be read.
    """
    index, credentials = _index(environ)
    url = f"{index.rstrip('/')}/{canonicalize_name(package)}/"
    try:
        names = [name_of(address) for address in addresses(url, credentials)]
    except Unreadable as error:
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
