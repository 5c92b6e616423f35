"""Where an engine's code comes from: a release on PyPI, a git repository, or a folder.

`parse_source` reads what the user wrote, `resolve` brings it onto this machine, and the `Checkout`
that comes out says which commit it really is. Git repositories are fetched once into the cache and
checked out by commit.
"""

import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

from packaging.version import InvalidVersion, Version

from harness.base.errors import BadInput
from harness.base.files import expanded
from harness.base.progress import Progress
from harness.base.secrets import redact
from harness.environments.folders import state
from harness.environments.git import GitFailed
from harness.environments.mirror import AmbiguousRef, Mirror, is_commit
from harness.environments.wheels import WheelSource, parse_wheel, wheel_of

_PULL_REQUEST = re.compile(r"pr/(\d+)")
_URL = re.compile(r"(?:https?|ssh|git|file)://[^\s?#]+")
_SCP = re.compile(r"([\w.-]+@[\w.-]+:[^\s@]+)@([^\s@]+)")
_SHORTHAND = re.compile(r"([\w-][\w.-]*/[\w-][\w.-]*)@([^\s@]+)")
# No leading "-": git would take it for an option.
_REF = re.compile(r"(?![-/.])[^\s\x00-\x1f\x7f~^:?*\[\\@]+(?<![/.])")


@dataclass(frozen=True)
class Package:
    """What a source is of.

    name:       its name, on PyPI if it is there
    repository: URL of the git repository in which a ref without a URL is looked up
    on_pypi:    whether a version number is one of its releases on PyPI
    """

    name: str
    repository: str
    on_pypi: bool = False

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True)
class PypiSource:
    """A release of ``package`` on PyPI."""

    package: str
    version: str

    def __str__(self) -> str:
        return f"{self.package} {self.version} from PyPI"


@dataclass(frozen=True)
class GitSource:
    """What ``ref`` (a branch, tag, commit, full ref name or HEAD) is in the repository ``url``.

    ``url`` never holds a user name or password of HTTP: ``credentials`` does, and is not shown.
    """

    url: str
    ref: str
    credentials: str = field(default="", repr=False, compare=False)

    def __str__(self) -> str:
        return f"{self.url}@{self.ref}"


@dataclass(frozen=True)
class PathSource:
    """A folder of this machine, as it is now."""

    path: Path

    def __str__(self) -> str:
        return str(self.path)


Source = PypiSource | GitSource | PathSource | WheelSource


@dataclass(frozen=True)
class Checkout:
    """A source as it was found: enough to name the exact code in a Record.

    path: the folder that holds the code; None for a release on PyPI.
    commit: full commit id; None where the folder is not the top of a git checkout.
    dirty: SHA-256 of what differs from the commit (of all files, where there is no commit); None
        when nothing does.
    description: one line for people, without credentials.
    version: the release, for a release on PyPI or a wheel only.
    wheel: the address of a wheel; None for anything else.
    """

    path: Path | None
    commit: str | None
    dirty: str | None
    description: str
    version: str | None = None
    wheel: str | None = None


def default_cache_dir() -> Path:
    """``$PARITY_CACHE``, or ``parity-harness`` in the user's cache folder."""
    if named := os.environ.get("PARITY_CACHE"):
        return expanded(named).absolute()
    user_cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return expanded(user_cache) / "parity-harness"


def parse_source(text: str, package: Package) -> Source:
    """What ``text`` names, as a source of ``package``.

    Looks at nothing but whether a folder exists. Where a text could be two things:

    - what ends with ``.whl``, a folder of wheels and a page that lists some is a wheel
      (`harness.environments.wheels`);
    - what has ``://`` is a URL; the last ``@`` separates it from its ref;
    - what starts with ``/``, ``./``, ``../`` or ``~`` is a folder, and has to be one;
    - what contains a slash and is a folder is that folder, even if a branch has the same name
      (``refs/heads/NAME`` names the branch);
    - a single word is never a folder (``./NAME`` names the folder);
    - a number with a dot is a release on PyPI, even if a tag has the same name (``refs/tags/NAME``
      names the tag); ``v4.57.6`` is a tag, and ``1234567`` an abbreviated commit;
    - ``pr/12`` is pull request 12 (``refs/heads/pr/12`` names the branch).

    Raises:
        BadInput: `text` has none of the accepted forms.
    """
    text = text.strip()
    if package.on_pypi:
        wheel = parse_wheel(text, package.name, bool(package.repository))
        if wheel is not None:
            return wheel
    if "://" in text:
        return _parse_url(text, package)
    if text in (".", "..") or text.startswith(("/", "./", "../", "~")):
        path = expanded(text)
        if not path.is_dir():
            raise BadInput(
                f"{text!r} is named as the source of {package}, but there is no such folder. "
                f"{_accepted(package)}"
            )
        return PathSource(path.resolve())
    if "/" in text and Path(text).is_dir():
        return PathSource(Path(text).resolve())
    if match := _SCP.fullmatch(text):
        return GitSource(match[1], _checked_ref(match[2], text, package))
    if match := _SHORTHAND.fullmatch(text):
        url = f"https://github.com/{match[1]}"
        return GitSource(url, _checked_ref(match[2], text, package))
    if _is_release(text):
        if not package.on_pypi:
            raise BadInput(
                f"{text!r} is a release number, but {package} has no releases on PyPI. "
                f"{_accepted(package)}"
            )
        return PypiSource(package.name, text)
    return GitSource(package.repository, _checked_ref(text, text, package))


def resolve(source: Source, cache_dir: Path, progress: Progress = lambda line: None) -> Checkout:
    """``source`` on this machine, with the commit that it is now.

    A git repository is fetched from the network unless ``ref`` is a full commit that the cache
    already has: a branch or a tag may have moved.

    Raises:
        BadInput: the source cannot be had; the message says why and names a way out.
    """
    if not isinstance(source, GitSource):
        return _at_hand(source)
    if is_commit(source.ref) and (found := cached(source, cache_dir)):
        return found
    mirror = Mirror(source.url, cache_dir, source.credentials)
    try:
        mirror.update(source.ref, progress)
    except GitFailed as error:
        raise _cannot_fetch(source, mirror, error) from None
    commit = _commit(source, mirror)
    if commit is None:
        raise _no_such_ref(source)
    return _check_out(source, mirror, commit, progress)


def cached(source: Source, cache_dir: Path) -> Checkout | None:
    """``source`` as far as it can be had without the network; None if it cannot.

    A branch is the commit that it was when it was last fetched.

    Raises:
        BadInput: what is there cannot be used.
    """
    if not isinstance(source, GitSource):
        return _at_hand(source)
    mirror = Mirror(source.url, cache_dir)
    if is_commit(source.ref) and mirror.checkout_folder(source.ref).exists():
        commit: str | None = source.ref
    else:
        commit = _commit(source, mirror)
    return _check_out(source, mirror, commit, lambda line: None) if commit else None


def _accepted(package: Package) -> str:
    release = "a release on PyPI (4.57.6), a wheel, " if package.on_pypi else ""
    return (
        f"A source of {package} is {release}a folder (path/to/checkout, ./folder, /folder), a git "
        "repository with a ref (https://host/org/repo@REF, git@host:org/repo@REF, "
        "file:///folder/repo@REF, org/repo@REF on GitHub), or a branch, tag, commit or pull "
        f"request (pr/1234) of {package.repository}."
    )


def _parse_url(text: str, package: Package) -> GitSource:
    url, _, ref = text.rpartition("@")
    # Without a slash after the host, the last "@" was that of "user@host": there is no ref.
    if not _URL.fullmatch(url) or "/" not in url.partition("://")[2]:
        raise BadInput(f"{redact(text)!r} is not a git repository with a ref. {_accepted(package)}")
    parts = urlsplit(url)
    user, _, host = parts.netloc.rpartition("@")
    if not re.fullmatch(r"[^:]*(:\d+)?|\[[\da-fA-F:.]+\](:\d+)?", host):
        raise BadInput(
            f"A git URL given for {package} has no valid host. A slash in a password is written "
            "%2F. (The URL is not shown because it may hold one.)"
        )
    if parts.scheme.startswith("http"):
        bare = urlunsplit(parts._replace(netloc=host))
        return GitSource(bare, _checked_ref(ref, text, package), credentials=user)
    if ":" in user:
        raise BadInput(
            f"{redact(text)!r} has a password, which git over {parts.scheme} does not use: leave "
            "it out."
        )
    return GitSource(url, _checked_ref(ref, text, package))


def _checked_ref(ref: str, text: str, package: Package) -> str:
    if match := _PULL_REQUEST.fullmatch(ref):
        return f"refs/pull/{match[1]}/head"
    if not _REF.fullmatch(ref) or ".." in ref:
        raise BadInput(
            f"{redact(text)!r} is no source of {package}: {ref!r} cannot be a git ref. "
            f"{_accepted(package)}"
        )
    return ref


def _is_release(text: str) -> bool:
    try:
        Version(text)
    except InvalidVersion:
        return False
    return text[0].isdigit() and "." in text


def _at_hand(source: PypiSource | PathSource | WheelSource) -> Checkout:
    if isinstance(source, WheelSource):
        wheel = wheel_of(source)
        name = f"{source.package} {wheel.version} of {redact(wheel.address)}"
        return Checkout(None, None, wheel.content, name, str(wheel.version), wheel.address)
    if isinstance(source, PypiSource):
        return Checkout(None, None, None, str(source), source.version)
    if not source.path.is_dir():
        raise BadInput(f"There is no folder {source.path}: name the folder of a checkout.")
    try:
        commit, dirty = state(source.path)
    except GitFailed as error:
        raise BadInput(
            f"The git checkout {source.path} cannot be read: {error}. Mend it, or name a copy of "
            "it without its .git."
        ) from None
    return Checkout(source.path, commit, dirty, _describe(source, commit, dirty))


def _describe(source: Source, commit: str | None, dirty: str | None) -> str:
    changes = f"content {dirty[:12]}" if dirty else ""
    if commit is None:
        return f"{source} (not a git checkout, {changes})"
    return f"{source} ({commit[:12]}{changes and ', with uncommitted ' + changes})"


def _commit(source: GitSource, mirror: Mirror) -> str | None:
    try:
        return mirror.commit_of(source.ref)
    except AmbiguousRef:
        raise BadInput(
            f"{source} is both a branch and a tag, and they differ: write "
            f"refs/heads/{source.ref} or refs/tags/{source.ref}."
        ) from None


def _check_out(source: GitSource, mirror: Mirror, commit: str, progress: Progress) -> Checkout:
    try:
        folder = mirror.check_out(commit, progress)
        found, dirty = state(folder)
    except GitFailed as error:
        raise BadInput(
            f"{source} cannot be checked out into {mirror.checkout_folder(commit)}: {error}. "
            "Delete that folder, if there is one, and try again."
        ) from None
    if found != commit:
        raise BadInput(
            f"The cached checkout {folder} of {source} is no longer at commit {commit} but at "
            f"{found}: delete that folder, and it will be made again."
        )
    return Checkout(folder, commit, dirty, _describe(source, commit, dirty))


def _cannot_fetch(source: GitSource, mirror: Mirror, error: GitFailed) -> BadInput:
    if "find remote ref" in str(error) or "not our ref" in str(error):
        return _no_such_ref(source)
    known = _commit(source, mirror)
    fallback = f" When it was last fetched it was {known}: name that commit." if known else ""
    return BadInput(
        f"{source} cannot be fetched: {error}. Check the address and the network, or name a local "
        f"checkout (a folder) instead.{fallback}"
    )


def _no_such_ref(source: GitSource) -> BadInput:
    here = Path(source.ref)
    hint = f" The folder of that name here is written ./{here}." if here.is_dir() else ""
    return BadInput(
        f"The repository {source.url} has no branch, tag or commit {source.ref!r}. Check its "
        "spelling; a commit that is on no branch has to be given in full; a local checkout is "
        f"named by its folder.{hint}"
    )
