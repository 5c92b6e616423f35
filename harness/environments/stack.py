"""The engine environment with another release in it: of torch_xla, torch, jax or accelerate.

Everything else stays as the lock has it. Only torch_xla decides more by itself (its torch, libtpu
and numpy), so that beside another one the rest is what the requirements ask for.
"""

from __future__ import annotations

import hashlib
import json
import re
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from packaging.utils import canonicalize_name
from packaging.version import Version

from harness.base.errors import BadInput
from harness.base.progress import Progress
from harness.base.secrets import redact
from harness.environments import venv
from harness.environments.install import InstallFailed
from harness.environments.interpreters import LOCK, locked
from harness.environments.sources import Package, PypiSource, Source, parse_source, resolve
from harness.environments.wheels import WheelSource, wheel_of

REQUIREMENTS = LOCK.with_name("base.txt")

TORCH_XLA = "torch_xla"

_TOGETHER = {
    "torch": r"torch|triton|nvidia-.*",
    "torch_xla": r"torch-xla|torch|libtpu|numpy",
    "jax": r"jax|jaxlib",
}
"""What a release brings with it, or decides by itself, as a pattern of normalized names."""

_REPOSITORIES = {"accelerate": "https://github.com/huggingface/accelerate"}
"""Of packages that are pure Python, so that any commit can be installed."""

_MISSING = re.compile(r"there is no version of (\S+?)(\[\w+\])?==|(\S+) was not found in")


@dataclass(frozen=True)
class Pin:
    """One package of an environment, and what it is to be.

    package:     its name, such as torch_xla
    requirement: what follows the name for uv: `==2.8.0`, or ` @ file:///…`
    version:     its release, as far as that is known beforehand
    content:     what tells its code apart where a version does not: a hash or a commit
    """

    package: str
    requirement: str
    version: str | None
    content: str = ""


def pin(package: str, source: str, cache_dir: Path, progress: Progress) -> Pin:
    """What `source` names of a package: a release, a wheel (`wheels`), or a checkout.

    Raises BadInput for anything else, and for what is not there.
    """
    found = named(package, source)
    if isinstance(found, Pin):
        return found
    if isinstance(found, WheelSource):
        wheel = wheel_of(found)
        return Pin(package, f" @ {wheel.address}", str(wheel.version), wheel.content)
    checkout = resolve(found, cache_dir, progress)
    assert checkout.path is not None
    content = f"{checkout.commit} {checkout.dirty}"
    return Pin(package, f" @ {checkout.path.as_uri()}", None, content)


def environment_package(name: str) -> Package:
    """What a source of a package in the environment is of."""
    return Package(name, _REPOSITORIES.get(name, ""), on_pypi=True)


def named(package: str, source: str) -> Pin | Source:
    """What `source` names, as far as this machine knows: a Source is still to be had.

    Raises BadInput for what cannot be a version of `package`.
    """
    parsed = parse_source(source, environment_package(package))
    if isinstance(parsed, PypiSource):
        return Pin(package, f"=={parsed.version}", parsed.version)
    if package not in _REPOSITORIES and not isinstance(parsed, WheelSource):
        raise BadInput(
            f"{redact(f'{package}@{source}')}: {package} is built in no checkout here; name a "
            "release, a wheel (a file or its URL), or a folder or a page (https://HOST/PAGE.html) "
            "with some"
        )
    return parsed


def interpreter_with(
    pins: Iterable[Pin], cache_dir: Path, progress: Progress, xla: bool = True
) -> Path:
    """The Python of an environment with `pins` in it, made once and found again.

    Where the lock or Python changes, it is another environment. Packages are linked from uv's
    cache. A wheel or a checkout is installed as it is now: its content names the environment.

    Raises:
        BadInput: a release that is named does not exist, or is one of torch_xla without `xla`.
        InstallFailed: they cannot be installed beside the rest; not every torch_xla has wheels for
            every Python.
    """
    pins = sorted(pins, key=lambda pin: pin.package)
    lines = requirements({pin.package: pin for pin in pins}, xla)
    of_python = f"{sys.version_info.major}.{sys.version_info.minor}"
    contents = [pin.content for pin in pins if pin.content]
    digest = hashlib.sha256(json.dumps([of_python, lines, contents]).encode()).hexdigest()[:12]
    names = "-".join(f"{pin.package}-{pin.version or pin.content[:12]}" for pin in pins)
    what = ", ".join(f"{pin.package} {pin.version or redact(pin.requirement)}" for pin in pins)
    try:
        return venv.made(
            cache_dir / "environments" / f"{names}-{digest}",
            *("install", *lines),
            note=f"creating an environment with {what} (minutes when downloaded)",
            what=what,
            way_out=f"Name a release that has a wheel for Python {of_python} on PyPI.",
            progress=progress,
        )
    except InstallFailed as error:
        check_exists(error, (pin.package for pin in pins))
        raise


def check_exists(error: InstallFailed, packages: Iterable[str]) -> None:
    """Raise BadInput where what could not be installed is a release that does not exist."""
    named = {canonicalize_name(package) for package in packages}
    for match in _MISSING.finditer(str(error)):
        if canonicalize_name(match[1] or match[3]) in named:
            raise BadInput(f"There is no such release: {error}") from None


def requirements(pins: Mapping[str, Pin], xla: bool = True) -> list[str]:
    """The requirements of the environment, one a package, with `pins` in place of its own.

    Raises BadInput for a pin of what only `xla` has, where there is none of it.
    """
    for name in () if xla else sorted(pins.keys() & {TORCH_XLA, "jax"}):
        raise BadInput(f"{name}@{pins[name].version}: nothing is trained by it without XLA")
    own = [f"{p.package}{p.requirement}" for p in pins.values() if p.package != TORCH_XLA]
    replaced = [_TOGETHER.get(name, canonicalize_name(name)) for name in pins]
    if "jax" in pins and pins["jax"].version:
        own.append(f"jaxlib=={pins['jax'].version}")
    lines = "".join(locked(xla))
    if (torch_xla := pins.get(TORCH_XLA)) is not None:
        lines = REQUIREMENTS.read_text()
        own.append(f"torch_xla[pallas]{torch_xla.requirement}")
        if "torch" not in pins:
            # Built against a torch of the same major and minor version, which it says nowhere.
            built = Version(str(torch_xla.version))
            major, minor = built.release[:2]
            # That of a nightly is a nightly too.
            own.append(f"torch~={major}.{minor}.0{'.dev0' if built.is_prerelease else ''}")
    kept = []
    for line in lines.splitlines():
        requirement = line.partition("#")[0].strip()
        name = canonicalize_name(re.split(r"[\[=<>~ ]", requirement)[0]) if requirement else ""
        if not name or any(re.fullmatch(pattern, name) for pattern in replaced):
            continue
        kept.append(requirement)
    return sorted(own) + kept
