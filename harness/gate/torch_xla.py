"""An engine environment with another torch_xla, and the torch that it loads."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import sys
import tempfile
from pathlib import Path

from packaging.version import Version

from harness.environments.cache import Progress, exclusive
from harness.environments.install import run_uv
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
    asked = requirements(REQUIREMENTS.read_text(), version)
    of_python = f"{sys.version_info.major}.{sys.version_info.minor}"
    digest = hashlib.sha256(json.dumps([of_python, asked]).encode()).hexdigest()[:12]
    environment = cache_dir / "environments" / f"torch_xla-{version}-{digest}"
    python, complete = environment / "bin" / "python", environment / "complete"
    with exclusive(environment, progress):
        if complete.exists() and python.exists():
            return python
        shutil.rmtree(environment, ignore_errors=True)
        progress(f"creating an environment with torch_xla {version} (minutes when downloaded)")
        reason = {
            "what": f"torch_xla {version}",
            "way_out": f"Name a release that has a wheel for Python {of_python} on PyPI.",
        }
        venv = ("venv", "--no-project", "--python", sys.executable, environment)
        run_uv(*venv, **reason, progress=progress)
        with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
            file.write("\n".join(asked) + "\n")
            file.flush()
            install = ("pip", "install", "--python", python, "--requirements", file.name)
            run_uv(*install, **reason, progress=progress)
        complete.touch()
    return python


def requirements(base: str, version: str) -> list[str]:
    """The base environment's requirements with torch_xla `version`.

    torch has the same major and minor version: torch_xla is built against it, and says so nowhere.
    """
    lines = [line.partition("#")[0].strip() for line in base.splitlines()]
    major, minor = Version(version).release[:2]
    own = [f"torch~={major}.{minor}.0", f"torch_xla[pallas]=={version}"]
    return own + [line for line in lines if line and not _OWN.match(line)]
