"""The walk-throughs of docs/extending.md, installed as the packages that they are.

A block of a section whose first line names a file (`# my_engine/engine.py`) is that file. The page
has to be complete: what is installed is what it shows, and nothing else.
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import outside

PAGE = Path(__file__).resolve().parents[2] / "docs" / "extending.md"
BLOCK = re.compile(r"^```\w*\n# ([\w./-]+)\n(.*?)^```", re.M | re.S)


def files(section: str) -> dict[str, str]:
    """Path to text of every file that the section of that title shows.

    Raises LookupError for a section that is not there, or shows no file.
    """
    found = re.search(rf"^## {re.escape(section)}\n(.*?)(?=^## |\Z)", PAGE.read_text(), re.M | re.S)
    shown = {} if found is None else dict(BLOCK.findall(found[1]))
    if not shown:
        raise LookupError(f"docs/extending.md: no section `{section}` that shows a file")
    return shown


def install(section: str, folder: Path) -> Path:
    """Make `folder` what a `pip install --target` of the section's package makes it.

    With the folder on sys.path or PYTHONPATH, importlib.metadata finds the package's entry points.
    """
    shown = files(section)
    project = tomllib.loads(shown["pyproject.toml"])["project"]
    outside.install(folder, shown, project["entry-points"], project["name"], project["version"])
    return folder
