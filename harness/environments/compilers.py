"""libtpu, the TPU's compiler, and the Python that drives it: neither needs a TPU.

One interpreter with jaxlib drives any release of libtpu. A release is a folder of the cache with
its wheel's content, so that many of them can be tried side by side.
"""

import hashlib
import platform
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from harness.base.errors import BadInput
from harness.base.progress import Progress
from harness.environments import venv
from harness.environments.cache import made_once
from harness.environments.install import run_uv

_REQUIREMENTS = Path(__file__).parent / "requirements"
DRIVER_LOCK = _REQUIREMENTS / "compiler.lock.txt"
LIBTPU_LOCK = _REQUIREMENTS / "libtpu.lock.txt"

LIBTPU = "libtpu"
"""Folder of the cache with releases, each in a folder of its name."""
PASSING = "libtpu-passing"
"""Folder of the cache with one of releases for each process that needs them for a while."""

_RELEASE = re.compile(r"\d+(\.\d+)+")


@dataclass(frozen=True)
class TpuCompiler:
    """A release of libtpu, ready to compile.

    python:  interpreter with jaxlib that drives it
    library: its libtpu.so
    release: its version on PyPI, such as "0.0.52"
    """

    python: Path
    library: Path
    release: str


def tpu_compiler(
    release: str, cache_dir: Path, progress: Progress, passing: Path | None = None
) -> TpuCompiler:
    """The compiler of that release of libtpu, installed on first use.

    passing: a folder for what is not in the cache yet, and is not to stay in it

    Raises:
        BadInput: `release` is no version, or libtpu does not exist for this machine.
        InstallFailed: uv could not install it.
    """
    if not _RELEASE.fullmatch(release):
        raise BadInput(
            f"compiler.libtpu={release}: it is a release of libtpu on PyPI, such as 0.0.52"
        )
    if (sys.platform, platform.machine()) != ("linux", "x86_64"):
        raise BadInput(
            f"target: libtpu exists for x86-64 Linux only, and this is {sys.platform} on "
            f"{platform.machine()}: leave target out, or compile on such a machine"
        )
    python = _driver(cache_dir, progress)
    folder = cache_dir / LIBTPU / release
    if passing is not None and not folder.exists():
        folder = passing / release
    made_once(
        folder,
        lambda partial: _install_libtpu(release, python, partial, progress),
        f"installing libtpu {release} (about 500 MB)",
        progress,
    )
    return TpuCompiler(python, folder / "libtpu" / "libtpu.so", release)


@contextmanager
def passing_releases(cache_dir: Path) -> Iterator[Path]:
    """A folder for releases that are needed for as long as this lasts: 500 MB each.

    It is this process's own, so that nobody else uses what it removes. What a process left that
    was killed is removed by the next.
    """
    folders = cache_dir / PASSING
    folders.mkdir(parents=True, exist_ok=True)
    for left in folders.glob("*.lock"):
        with suppress(Timeout, OSError), FileLock(left, timeout=0):
            shutil.rmtree(left.with_suffix(""), ignore_errors=True)
            left.unlink(missing_ok=True)
    folder = Path(tempfile.mkdtemp(dir=folders))
    lock = folder.with_name(f"{folder.name}.lock")
    try:
        with FileLock(lock):
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        lock.unlink(missing_ok=True)


def forget(release: str, passing: Path) -> None:
    """Remove a release from a folder of `passing_releases`, where it is in it."""
    shutil.rmtree(passing / release, ignore_errors=True)


def _driver(cache_dir: Path, progress: Progress) -> Path:
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    digest = hashlib.sha256(f"{version}\n{DRIVER_LOCK.read_text()}".encode()).hexdigest()
    return venv.made(
        cache_dir / "environments" / f"compiler-{digest[:12]}",
        *("sync", "--require-hashes", DRIVER_LOCK),
        note="creating the environment that drives libtpu (500 MB)",
        what="The environment that drives libtpu",
        way_out="Leave target out, or mend this.",
        progress=progress,
    )


def _install_libtpu(release: str, python: Path, target: Path, progress: Progress) -> None:
    pinned = locked(release)
    requirement = target.with_name(f"{target.name}.txt")
    requirement.parent.mkdir(parents=True, exist_ok=True)
    requirement.write_text(pinned or f"libtpu=={release}\n")
    try:
        run_uv(
            # uv's own copy would stay where the release is removed again.
            *("pip", "install", "--no-cache", "--no-deps", "--python", python, "--target", target),
            *(("--require-hashes",) if pinned else ()),
            *("-r", requirement),
            what=f"libtpu {release}",
            way_out="compiler.libtpu names a release of libtpu that PyPI has for this Python.",
            progress=progress,
        )
    finally:
        requirement.unlink()


def locked(release: str) -> str | None:
    """The requirement of that release with the hashes of its wheels, where the lock has them."""
    for block in re.split(r"\n(?=libtpu==)", LIBTPU_LOCK.read_text()):
        if block.startswith(f"libtpu=={release} "):
            return block
    return None
