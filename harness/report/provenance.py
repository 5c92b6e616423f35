"""Where a run's numbers come from: tables of its manifest for the reports."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from harness.base.text import printable
from harness.record.evidence import Record
from harness.record.writer import encode
from harness.report.text import MISSING

SHOWN_PACKAGES = ("torch", "torch_xla", "transformers")


def facts(record: Record) -> tuple[tuple[str, str], ...]:
    """What a reader wants to know first of a run, as names and values."""
    seen, ended = record.observed, record.ended
    axes = {} if seen.mesh is None else seen.mesh.axes
    versions = seen.versions
    rows = {
        "ended": " – ".join(text for text in (ended.status, ended.reason) if text),
        "steps": f"{record.trained_steps} finished of {record.requested_steps}",
        "devices": f"{seen.devices or MISSING} × {seen.device_kind or MISSING}",
        "matmul precision": seen.matmul_precision or MISSING,
        "mesh": " × ".join(f"{axis} {size}" for axis, size in axes.items() if size != 1),
        "input sharding": seen.input_sharding or "",
        "versions": ", ".join(f"{p} {versions[p]}" for p in SHOWN_PACKAGES if p in versions),
        "XLA_FLAGS": seen.flags.get("XLA_FLAGS", ""),
        "record": str(record.directory),
    }
    return tuple((name, printable(value) or MISSING) for name, value in rows.items())


def log_tail(record: Record) -> str:
    """The last lines that a failed trainer printed."""
    return printable("\n".join(record.ended.log))


def flatten(value: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """The leaves of a manifest as dotted names and text. Lists are leaves."""
    if isinstance(value, dict) and value:
        for key in sorted(value, key=str):
            yield from flatten(value[key], f"{path}.{key}" if path else str(key))
    else:
        text = value if isinstance(value, str) else json.dumps(encode(value), default=str)
        yield path, printable(text)


def side_by_side(
    a: Record | None, b: Record | None
) -> tuple[tuple[tuple[str, str, str], ...], tuple[tuple[str, str, str], ...]]:
    """The two manifests as rows of name, a and b: those that differ, and those that do not.

    The tail of the log is apart (`log_tail`).
    """
    left, right = (
        {k: v for k, v in flatten(asdict(record.manifest)) if not k.startswith("ended.log")}
        if record
        else {}
        for record in (a, b)
    )
    rows = [
        (key, left.get(key, MISSING), right.get(key, MISSING))
        for key in sorted(left.keys() | right.keys())
    ]
    differ = tuple(row for row in rows if row[1] != row[2])
    return differ, tuple(row for row in rows if row[1] == row[2])
