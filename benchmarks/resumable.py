"""A file of results, one line of JSON each, from which a measurement that takes hours goes on."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def read(results: Path) -> list[dict[str, Any]]:
    """The results that are there; none where there is no such file."""
    return (
        [json.loads(line) for line in results.read_text().splitlines()] if results.is_file() else []
    )


def append(results: Path, row: Mapping[str, Any]) -> None:
    """Add a result; the file and its folder are made with the first."""
    results.parent.mkdir(parents=True, exist_ok=True)
    with results.open("a") as stream:
        stream.write(json.dumps(row) + "\n")
