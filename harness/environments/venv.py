"""Virtual environments of the cache: each is made by uv once, and found again."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from harness.base.progress import Progress
from harness.environments.cache import exclusive
from harness.environments.install import run_uv


def python_in(environment: Path) -> Path:
    """The interpreter of the virtual environment in a folder, made or not."""
    return environment / "bin" / "python"


def made(
    environment: Path,
    *packages: str | Path,
    note: str,
    what: str,
    way_out: str,
    progress: Progress,
) -> Path:
    """The interpreter of `environment`, a folder that is filled unless it is complete.

    packages: what follows `uv pip`, such as ("sync", LOCK) or ("install", "torch==2.9.0")
    note:     said before it is made

    Raises:
        InstallFailed: `what` could not be installed; it ends with the `way_out`.
        BadInput: the cache cannot be written.
    """
    python, complete = python_in(environment), environment / "complete"

    def ready() -> bool:
        return complete.exists() and python.exists()  # false where its system Python is gone

    if ready():
        return python
    with exclusive(environment, progress):
        if ready():
            return python
        progress(note)
        # It holds its own path, so that it cannot be made under another name and renamed.
        shutil.rmtree(environment, ignore_errors=True)
        command, *arguments = packages
        for line in (
            ("venv", "--no-project", "--python", sys.executable, environment),
            ("pip", command, "--python", python, *arguments),
        ):
            run_uv(*line, what=what, way_out=way_out, progress=progress)
        complete.touch()
    return python
