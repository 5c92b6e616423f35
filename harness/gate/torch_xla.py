"""An engine environment with another torch_xla, and the torch that it loads."""

from __future__ import annotations

import hashlib
import json
import re
import sys
from pathlib import Path

from packaging.version import Version

from harness.base.progress import Progress
from harness.environments import venv
from harness.environments.interpreters import LOCK

REQUIREMENTS = LOCK.with_name("base.txt")

_OWN = re.compile(r"^(torch|torch_xla|libtpu|numpy)\b")
"""Requirements that this torch_xla decides by itself."""


def interpreter_with(version: str, cache_dir: Path, progress: Progress) -> Path:
    """The Python of an environment with torch_xla `version`, made once and found again.

    Everything else is what the base environment asks for; where that or Python changes, it is
    another environment. Packages are linked from uv's cache.
    Raises InstallFailed where it cannot be had; no torch_xla has wheels for every Python.
    """
    wanted = requirements(REQUIREMENTS.read_text(), version)
    of_python = f"{sys.version_info.major}.{sys.version_info.minor}"
    digest = hashlib.sha256(json.dumps([of_python, wanted]).encode()).hexdigest()[:12]
    environment = cache_dir / "environments" / f"torch_xla-{version}-{digest}"
    return venv.made(
        environment,
        *("install", *wanted),
        note=f"creating an environment with torch_xla {version} (minutes when downloaded)",
        what=f"torch_xla {version}",
        way_out=f"Name a release that has a wheel for Python {of_python} on PyPI.",
        progress=progress,
    )


def requirements(base: str, version: str) -> list[str]:
    """The base environment's requirements with torch_xla `version`.

    torch has the same major and minor version: torch_xla is built against it, and says so nowhere.
    """
    lines = [line.partition("#")[0].strip() for line in base.splitlines()]
    major, minor = Version(version).release[:2]
    own = [f"torch~={major}.{minor}.0", f"torch_xla[pallas]=={version}"]
    return own + [line for line in lines if line and not _OWN.match(line)]
