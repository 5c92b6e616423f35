"""What the probe computes in the engine's interpreter, where there is one."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from harness.environments.interpreters import base_python
from harness.environments.sources import default_cache_dir

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="session")
def on_device(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The JSON that on_device.py writes: once for all, however many processes the tests run in."""
    python = base_python(default_cache_dir())
    if not python.exists():
        pytest.skip(f"there is no engine environment at {python}: `parity run` makes it")
    out = tmp_path_factory.getbasetemp().parent / "on_device.json"
    with FileLock(f"{out}.lock"):
        if not out.exists():
            _run(python, out)
    return json.loads(out.read_text())


def _run(python: Path, out: Path) -> None:
    devices = {"PJRT_DEVICE": "CPU", "CPU_NUM_DEVICES": "4", "PYTHONPATH": str(ROOT)}
    script = Path(__file__).with_name("on_device.py")
    done = subprocess.run(
        [python, script, f"{out}.new"],
        env={**os.environ, **devices}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    Path(f"{out}.new").rename(out)
