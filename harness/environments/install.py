"""Runs uv, and finds the root cause in its output when it fails."""

import os
import re
import subprocess
from pathlib import Path

import uv

from harness.base.errors import BadInput
from harness.base.progress import Progress

_STEPS = ("Resolved", "Downloading", "Building", "Prepared", "Installed")


class InstallFailed(BadInput):
    """Packages could not be resolved, built or installed; the message ends with the cause."""


def run_uv(*arguments: str | Path, what: str, way_out: str, progress: Progress) -> str:
    """What uv printed; its steps are passed on to ``progress`` as they happen.

    Raises:
        InstallFailed: `what` could not be installed.
    """
    environment = {k: v for k, v in os.environ.items() if k != "VIRTUAL_ENV"}
    lines: list[str] = []
    with subprocess.Popen(
        [uv.find_uv_bin(), *map(str, arguments)],
        # Bytecode, as pip makes it: without, and under PYTHONDONTWRITEBYTECODE, which containers
        # often set, every launch would compile 3,600 modules again, for 10 s.
        env={
            **environment,
            "NO_COLOR": "1",
            "UV_NO_PROGRESS": "1",
            "UV_COMPILE_BYTECODE": "1",
        },
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    ) as process:
        assert process.stdout is not None
        try:
            for line in process.stdout:
                lines.append(line.rstrip())
                if line.startswith(_STEPS):
                    progress(line.strip())
        except BaseException:
            process.kill()
            raise
    if process.returncode != 0:
        raise InstallFailed(f"{what} cannot be installed. {way_out} uv says: {_root(lines)}")
    return "\n".join(lines)


def _root(lines: list[str]) -> str:
    """uv's error with its causes, and the exception with which a build backend ended."""
    starts = [i for i, line in enumerate(lines) if re.match(r"\s*(error:|×)", line)]
    if not starts:
        return " ".join(line.strip() for line in lines[-3:]) or "nothing at all"
    error, rest = [], lines[starts[0] :]
    while rest and rest[0].strip():
        error.append(rest.pop(0).strip(" ×╰─▶│├"))
    exceptions = [line.strip() for line in rest if re.match(r"\s*[\w.]+(Error|Exception)\b", line)]
    return " ".join([*error, *exceptions[-1:]])
