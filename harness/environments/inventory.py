"""What is installed for a Python, asked of that Python itself once and remembered."""

import hashlib
import json
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from packaging.utils import canonicalize_name

from harness.base.errors import BadInput
from harness.base.files import expanded, write_text
from harness.base.secrets import redact
from harness.environments.cache import exclusive
from harness.environments.folders import state
from harness.environments.git import GitFailed

_SECONDS = 60  # in which an interpreter has to list its packages

# Runs in any Python 3.8 or later. The current folder is not part of the installation.
_SCRIPT = """
import hashlib, json, platform, sys
from importlib.metadata import distributions
sys.path[:] = [p for p in sys.path if p]
found = []
for d in distributions():
    direct = d.read_text("direct_url.json")
    record = hashlib.sha256((d.read_text("RECORD") or "").encode()).hexdigest() if direct else ""
    found.append([d.metadata["Name"], d.version, direct, record])
print()
print(json.dumps({"python": platform.python_version(), "path": sys.path, "found": found}))
"""


@dataclass(frozen=True)
class Inventory:
    """python: its version.
    packages: normalized name to version; of two copies, the one that is imported.
    origins: for a package that came from elsewhere than an index, what tells its code apart from
        other code with the same version.
    """

    python: str
    packages: dict[str, str]
    origins: dict[str, str]


def take_inventory(python: Path, cache_dir: Path) -> Inventory:
    """What ``python`` has installed. It is run only if something was installed since last time.

    Raises:
        BadInput: there is no such file, or it is not a Python 3.
    """
    python = Path(os.path.abspath(expanded(python)))  # not resolved: a venv's is a link
    if not python.is_file():
        kind = "is a folder: name its bin/python" if python.is_dir() else "does not exist"
        raise BadInput(f"The interpreter {python} {kind}.")
    name = hashlib.sha256(os.fsencode(python)).hexdigest()[:16]
    memory = cache_dir / "interpreters" / f"{name}.json"
    answer = _remembered(memory)
    if answer is None:
        answer = _ask(python)
        watched = [str(python), str(python.parent.parent / "pyvenv.cfg"), *answer["path"]]
        answer["stamps"] = {path: _stamp(path) for path in watched}
        with exclusive(memory, lambda line: None):  # BadInput where the cache cannot be written
            write_text(memory, json.dumps(answer))
    return _inventory(answer)


def _stamp(path: str) -> int | None:
    try:
        return os.stat(path).st_mtime_ns
    except OSError:
        return None


def _remembered(memory: Path) -> dict[str, Any] | None:
    try:
        answer: dict[str, Any] = json.loads(memory.read_text())
        stamps = answer["stamps"].items()
    except (OSError, ValueError, KeyError):
        return None
    return answer if all(_stamp(path) == stamp for path, stamp in stamps) else None


def _ask(python: Path) -> dict[str, Any]:
    hidden = ("PYTHONPATH", "PYTHONHOME", "PYTHONSTARTUP")
    try:
        done = subprocess.run(
            [python, "-c", _SCRIPT],
            env={k: v for k, v in os.environ.items() if k not in hidden},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_SECONDS,
            check=False,
        )
        answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        if done.returncode == 0 and {"python", "path", "found"} <= answer.keys():
            return answer
        problem = f"it ended with {done.returncode}"
    except subprocess.TimeoutExpired:
        problem = f"it did not answer in {_SECONDS} s"
    except OSError as error:
        problem = error.strerror or str(error)
    except (ValueError, IndexError, AttributeError):
        problem = (done.stderr.strip().splitlines() or ["its answer is no list of packages"])[-1]
    raise BadInput(
        f"The interpreter {python} is not a Python 3 that can be used: {redact(problem)[-200:]}. "
        "Name the python of an environment that has torch and torch_xla."
    )


def _inventory(answer: dict[str, Any]) -> Inventory:
    packages: dict[str, str] = {}
    origins: dict[str, str] = {}
    for name, version, direct, record in answer["found"]:
        if not name or not version:  # half of a package that was removed
            continue
        normal = canonicalize_name(name)
        if normal in packages:
            continue
        packages[normal] = version
        if direct:
            origins[normal] = f"{record} {_live_state(json.loads(direct))}"
    return Inventory(answer["python"], packages, origins)


def _live_state(direct: dict[str, Any]) -> str:
    """The state of the folder that an editable install imports from; empty for others."""
    if not direct.get("dir_info", {}).get("editable"):
        return ""
    folder = Path(unquote(urlsplit(direct["url"]).path))
    try:
        return " ".join(part or "-" for part in state(folder))
    except GitFailed as error:
        raise BadInput(
            f"The checkout {folder}, which is installed as editable, cannot be read: {error}."
        ) from None
