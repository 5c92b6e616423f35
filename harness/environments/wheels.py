"""Wheels that a user names: a file, the one in a folder, or one of many that a page lists.

    ./dist/torch_xla-2.9.0-cp311-cp311-linux_x86_64.whl   a file, or its address
    ./dist                            the only one of the package in a folder
    ./dist@2.9.0                      the one of a version, of several there
    https://HOST/nightly.html         the newest on a page that this Python can install
    https://HOST/nightly.html@20251101    the one of a day, or of a version

A page is an index's (PEP 503, PEP 691), one of links, or a bucket's own list.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from packaging.tags import sys_tags
from packaging.utils import InvalidWheelFilename, canonicalize_name, parse_wheel_filename
from packaging.version import InvalidVersion, Version

from harness.base.errors import BadInput
from harness.base.files import expanded
from harness.base.secrets import redact
from harness.environments.folders import identity
from harness.environments.listings import Unreadable, addresses, name_of

_PAGE = re.compile(r"(?P<page>https?://[^@\s]+)(@(?P<wanted>[^@/\s]+))?")
_NO_REPOSITORY = re.compile(r"\.html?$|/simple/[^/]+/$")
"""In an address that is a page's, where it might be a git repository's as well."""
_DAY = re.compile(r"20\d{6}")


@dataclass(frozen=True)
class WheelSource:
    """A wheel of `package`, as a user names it.

    place:  path or address of the wheel, or of the folder or page that lists it
    wanted: its version, or its day as YYYYMMDD; None for the newest
    """

    package: str
    place: str
    wanted: str | None = None

    def __str__(self) -> str:
        return redact(self.place if self.wanted is None else f"{self.place}@{self.wanted}")

    @property
    def is_list(self) -> bool:
        """Whether the place lists wheels, and is none itself."""
        return not self.place.endswith(".whl")

    @property
    def is_remote(self) -> bool:
        """Whether another machine has it."""
        return "://" in self.place.removeprefix("file://")

    def of(self, version: str) -> WheelSource:
        """The wheel of another version in the same place."""
        return WheelSource(self.package, self.place, version)


@dataclass(frozen=True)
class Wheel:
    """One wheel.

    address: where an installer finds it, as a URL
    content: what tells it from another of its version: a hash of the file, or its address
    """

    address: str
    version: Version
    content: str


def parse_wheel(text: str, package: str, in_git: bool) -> WheelSource | None:
    """The wheel that `text` names, of which nothing is looked at yet but folders; None for none.

    in_git: the package has a git repository too, which an address may be of
    Raises BadInput for a file's name that is of no wheel, or of another package.
    """
    if text.endswith(".whl"):
        source = WheelSource(package, text)
        _version(name_of(text), package, text)
        if not source.is_remote:
            _file(source)
        return source
    found = _PAGE.fullmatch(text)
    if found is not None and (not in_git or _NO_REPOSITORY.search(found["page"])):
        return WheelSource(package, found["page"], found["wanted"])
    for place, wanted in ((text, None), text.rpartition("@")[::2]):
        folder = expanded(place)
        if "/" in place and "://" not in place and folder.is_dir() and _in(folder, package):
            return WheelSource(package, str(folder.absolute()), wanted)
    return None


def wheel_of(source: WheelSource) -> Wheel:
    """The wheel that is named. Raises BadInput where there is none such, or more than one."""
    if not source.is_list:
        return _remote(source.place, source) if source.is_remote else _local(_file(source), source)
    found = listed(source)
    if source.wanted is not None:
        found = [wheel for wheel in found if _is_wanted(wheel.version, source.wanted)]
    if not found:
        raise BadInput(
            f"{source.package}@{source}: no wheel of {source.package} there is of "
            f"{source.wanted or 'this Python and machine'}"
        )
    if not source.is_remote and len(found) > 1:
        names = ", ".join(str(wheel.version) for wheel in found)
        raise BadInput(
            f"{source.package}@{source}: name one of the wheels in this folder, by "
            f"{source.place}@VERSION: {names}"
        )
    return found[-1]


def listed(source: WheelSource) -> list[Wheel]:
    """The wheels in its place that this Python and machine can install, the oldest version first.

    Raises BadInput where the place cannot be read.
    """
    if not source.is_remote:
        paths = _in(Path(source.place), source.package)
        found = [_local(path, source) for path in paths if _installable(path.name)]
    else:
        try:
            there = addresses(source.place)
        except Unreadable as error:
            raise BadInput(
                f"{source.package}@{source}: this page of wheels cannot be read: {error}"
            ) from None
        found = [_remote(a, source) for a in there if _is_of(name_of(a), source.package)]
        found = [wheel for wheel in found if _installable(name_of(wheel.address))]
    return sorted(found, key=lambda wheel: wheel.version)


def _is_wanted(version: Version, wanted: str) -> bool:
    if _DAY.fullmatch(wanted):
        day = _DAY.search(str(version))
        return day is not None and day[0] == wanted
    try:
        asked = Version(wanted)
    except InvalidVersion:
        raise BadInput(
            f"{wanted}: a wheel of a page is named by its version, such as 2.9.0, or by its day, "
            "such as 20251101"
        ) from None
    # "2.9.0" is "2.9.0+cpu" too, as for an installer.
    return version == asked or (asked.local is None and Version(version.public) == asked)


def _in(folder: Path, package: str) -> list[Path]:
    return sorted(path for path in folder.glob("*.whl") if _is_of(path.name, package))


def _is_of(name: str, package: str) -> bool:
    try:
        return parse_wheel_filename(name)[0] == canonicalize_name(package)
    except InvalidWheelFilename:
        return False


def _installable(name: str) -> bool:
    return not parse_wheel_filename(name)[3].isdisjoint(sys_tags())


def _version(name: str, package: str, text: str) -> Version:
    try:
        project, version, *_ = parse_wheel_filename(name)
    except InvalidWheelFilename as error:
        raise BadInput(f"{redact(f'{package}@{text}')}: {error}") from None
    if project != canonicalize_name(package):
        raise BadInput(f"{redact(f'{package}@{text}')}: this is a wheel of {project}")
    return version


def _file(source: WheelSource) -> Path:
    path = expanded(source.place.removeprefix("file://")).absolute()
    if not path.is_file():
        raise BadInput(f"{source.package}@{source}: there is no such wheel: {path}")
    return path


def _local(path: Path, source: WheelSource) -> Wheel:
    version = _version(path.name, source.package, source.place)
    return Wheel(path.as_uri(), version, identity(path)["sha256"])


def _remote(address: str, source: WheelSource) -> Wheel:
    return Wheel(address, _version(name_of(address), source.package, address), redact(address))
