"""Writes a Record's files, also inside a trainer's process: standard library only.

Numbers are finite or the strings "nan", "inf" and "-inf", so that the files are strict JSON and a
NaN can neither get lost nor compare equal to another.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from harness.base.files import write_text


def encode(value: Any) -> Any:
    """`value` with non-finite floats as strings, for strict JSON."""
    if isinstance(value, float) and not math.isfinite(value):
        return "nan" if math.isnan(value) else ("inf" if value > 0 else "-inf")
    if isinstance(value, dict):
        return {str(k): encode(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [encode(v) for v in value]
    return value


def decode_number(value: Any) -> float | None:
    """A number as `encode` wrote it; None stays None. Raises ValueError on anything else."""
    if value is None:
        return None
    if type(value) in (int, float) or value in ("nan", "inf", "-inf"):
        return float(value)
    raise ValueError(f"not a number: {value!r}")


def json_text(value: Any) -> str:
    """`value` as strict JSON, ended by a line end."""
    return json.dumps(encode(value), indent=1, sort_keys=True, allow_nan=False) + "\n"


def write_json(path: Path, value: Any) -> None:
    """Write strict JSON in place of `path`, so that no reader sees half a file."""
    write_text(path, json_text(value))
