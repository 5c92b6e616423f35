"""The Python that an engine runs in, and exactly what it imports.

`base_interpreter` makes the environment that serves every engine, from a lock. `with_transformers`
puts another transformers in front of it and shares the rest. `named_interpreter` takes one that
the user has.
"""

import hashlib
import json
import os
import re
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import distributions
from pathlib import Path

from packaging.utils import canonicalize_name
from packaging.version import Version

from harness.base.errors import BadInput
from harness.base.files import expanded
from harness.base.progress import Progress
from harness.environments import venv
from harness.environments.cache import made_once
from harness.environments.folders import copy_code
from harness.environments.install import InstallFailed, run_uv
from harness.environments.inventory import take_inventory
from harness.environments.sources import Checkout

__all__ = [
    "BaseInstallFailed",
    "InstallFailed",
    "Interpreter",
    "base_interpreter",
    "base_python",
    "named_interpreter",
    "with_transformers",
]

LOCK = Path(__file__).parent / "requirements" / "base.lock.txt"

# What both sides of a comparison share whatever transformers is put in front. All else may change
# with it, if its own metadata asks for that.
_SHARED = ("torch", "torch-xla", "jax", "jaxlib", "libtpu", "numpy")

# One of them is in every folder that can be installed.
_PROJECT = ("pyproject.toml", "setup.py")

# They use what transformers uses (huggingface_hub), so that what they ask for counts as well.
_BESIDE = ("datasets", "evaluate")


@dataclass(frozen=True)
class Interpreter:
    """A Python, and what it imports.

    python: the executable.
    pythonpath: the folders of PYTHONPATH, first to last.
    packages: normalized name (``torch-xla``) to the version that is imported.
    origins: package to what tells its code apart where the version does not (a checkout).
    key: SHA-256 of the Python's version, the packages and their origins.
    """

    python: Path
    pythonpath: tuple[Path, ...]
    packages: Mapping[str, str]
    origins: Mapping[str, str]
    key: str


class BaseInstallFailed(InstallFailed):
    """The environment under every version could not be installed: no version is to blame."""


def base_interpreter(cache_dir: Path, progress: Progress, xla: bool = True) -> Interpreter:
    """The environment that serves every engine, or those that train without `xla`: made from the
    lock once, and found again.

    Raises:
        BaseInstallFailed: uv could not install it.
    """
    lines = locked(xla)
    environment = _base_environment(cache_dir, lines)
    size = "8 GB" if any(map(_CUDA.match, lines)) else "2 GB"
    with tempfile.TemporaryDirectory() as temporary:
        lock = Path(temporary) / LOCK.name
        lock.write_text("".join(lines))
        try:
            python = venv.made(
                environment,
                *("sync", lock),
                note=f"creating the engine environment ({size}, minutes when downloaded)",
                what="The engine environment",
                way_out="Name an interpreter that has torch_xla, or mend this.",
                progress=progress,
            )
        except InstallFailed as error:
            raise BaseInstallFailed(str(error)) from None
    return named_interpreter(python, cache_dir, xla)


_CUDA = re.compile(r"(nvidia-[\w-]+|triton)==")
_OF_XLA = re.compile(r"(torch-xla|libtpu|jax|jaxlib)(\[\w+\])?==")

TORCH_BACKEND, NO_CUDA = "UV_TORCH_BACKEND", "cpu"
"""uv's own variable, and the value with which it takes torch from PyTorch's index of builds without
CUDA."""


def locked(xla: bool = True, environ: Mapping[str, str] = os.environ) -> list[str]:
    """The lines of the lock: without what only `xla` needs where there is none of it, and without
    CUDA's libraries where uv is told to take a torch that was built without CUDA."""
    left_out = [] if xla else [_OF_XLA]
    if environ.get(TORCH_BACKEND) == NO_CUDA:
        left_out.append(_CUDA)
    lines = LOCK.read_text().splitlines(keepends=True)
    return [line for line in lines if not any(pattern.match(line) for pattern in left_out)]


def base_python(cache_dir: Path) -> Path:
    """The Python of `base_interpreter`, made or not."""
    return venv.python_in(_base_environment(cache_dir, locked()))


def _base_environment(cache_dir: Path, lines: list[str]) -> Path:
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    return cache_dir / "environments" / _hash(version, "".join(lines))[:12]


def named_interpreter(python: Path, cache_dir: Path, xla: bool = True) -> Interpreter:
    """The interpreter ``python`` as it is now.

    Raises:
        BadInput: it is no Python, or torch is missing in it, or torch_xla where there is `xla`.
    """
    found = take_inventory(python, cache_dir)
    needed = {"torch": "torch", "torch-xla": "torch_xla"} if xla else {"torch": "torch"}
    for name, package in needed.items():
        if name not in found.packages:
            raise BadInput(
                f"The interpreter {python} has no {package}, without which no engine trains: "
                f"install it there, or name no interpreter, and the harness makes one."
            )
    key = _hash(found.python, found.packages, found.origins)
    return Interpreter(expanded(python).absolute(), (), found.packages, found.origins, key)


def with_transformers(
    base: Interpreter, checkout: Checkout, cache_dir: Path, progress: Progress
) -> Interpreter:
    """``base`` with the transformers of ``checkout`` (a release or a folder) in front of it.

    What that transformers requires decides which other packages come with it: those of ``base``
    are kept wherever they fit. They are installed into a folder of their own, which is found again
    for the same release, or the same commit and changes.

    Raises:
        BadInput: the folder that is named is no package at all.
        InstallFailed: it cannot be resolved, built or installed with the torch of `base`.
    """
    folder = checkout.path
    if folder is not None and not any((folder / name).is_file() for name in _PROJECT):
        raise BadInput(
            f"{folder} is no checkout of transformers: it has neither {' nor '.join(_PROJECT)}"
        )
    installed = base.packages.get("transformers") if "transformers" not in base.origins else None
    if checkout.wheel is None and checkout.version is not None and checkout.version == installed:
        return base
    identity = (checkout.version, checkout.commit, checkout.dirty)
    label = checkout.version or (checkout.commit or checkout.dirty or "")[:12]
    overlay = cache_dir / "overlays" / f"transformers-{label}-{_hash(base.key, identity)[:12]}"
    made_once(
        overlay,
        lambda partial: _install_overlay(base, checkout, partial, progress),
        f"installing {checkout.description}",
        progress,
    )
    in_overlay = distributions(path=[str(overlay)])
    added: dict[str, str] = {canonicalize_name(d.name): d.version for d in in_overlay}
    packages = {**base.packages, **added}
    origins = {name: origin for name, origin in base.origins.items() if name not in added}
    if checkout.path is not None or checkout.wheel is not None:
        origins["transformers"] = f"{checkout.commit} {checkout.dirty}"
    key = _hash(base.key, packages, origins)
    return Interpreter(base.python, (overlay, *base.pythonpath), packages, origins, key)


def _install_overlay(
    base: Interpreter, checkout: Checkout, target: Path, progress: Progress
) -> None:
    """Install into ``target`` what has to differ from ``base``."""
    reason = {
        "what": f"{checkout.description} beside torch {base.packages['torch']}",
        "way_out": "Name another source of transformers, or an interpreter that has this one.",
    }
    with tempfile.TemporaryDirectory() as temporary:
        if checkout.wheel is not None:
            requirement = f"transformers[torch] @ {checkout.wheel}"
        elif checkout.path is None:
            requirement = f"transformers[torch]=={checkout.version}"
        else:
            copy = Path(temporary) / "transformers"
            copy_code(checkout.path, copy)  # a build writes into its source
            requirement = f"transformers[torch] @ {copy.as_uri()}"
        constraints = Path(temporary) / "constraints.txt"
        constraints.write_text("\n".join(_constraints(base.packages)))
        # An upper bound on torch (as in 4.52) is older than the torch that it excludes: what does
        # not fit will fail to train, which says more.
        overrides = Path(temporary) / "overrides.txt"
        overrides.write_text(f"torch=={Version(base.packages['torch']).public}")
        python = str(base.python)
        install = ("pip", "install", "--python", python, "--build-constraints", str(LOCK))
        plan = run_uv(
            *(*install, "--dry-run", "--break-system-packages", "--constraints", str(constraints)),
            *("--overrides", str(overrides)),
            *("--reinstall-package", "transformers", requirement),
            *(name for name in _BESIDE if name in base.packages),
            **reason,
            progress=lambda line: None,
        )
        needed = [pin for pin in _planned(plan) if not pin.startswith("transformers==")]
        run_uv(
            *(*install, "--no-deps", "--target", str(target), requirement, *needed),
            **reason,
            progress=progress,
        )


def _constraints(packages: Mapping[str, str]) -> list[str]:
    # Without a local part ("+cpu"), which no index has: the installed one satisfies it.
    pinned = {name: Version(packages[name]).public for name in _SHARED if name in packages}
    return [f"{name}=={version}" for name, version in pinned.items()]


def _planned(plan: str) -> list[str]:
    """The packages that ``uv pip install --dry-run`` would install, as ``name==version``."""
    return re.findall(r"^ \+ (\S+==\S+)", plan, flags=re.MULTILINE)


def _hash(*parts: object) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
