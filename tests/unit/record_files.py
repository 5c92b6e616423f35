"""A Record's files as the probe and the harness write them: what every builder of a Record uses."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.record.layout import LOG, MANIFEST, PARAMETERS, SCHEMA, STEPS
from harness.record.writer import encode, write_json

Event = dict[str, Any]
"""A line of steps.jsonl."""


def step_event(
    step: int,
    *,
    lr: Sequence[float] = (1e-3,),
    micro: int = 1,
    max_norm: float | None = 1.0,
    at: float = 1000.0,
) -> Event:
    """An optimizer step was taken."""
    return {
        "event": "step", "step": step, "micro": micro, "lr": list(lr), "max_norm": max_norm,
        "at": at,
    }  # fmt: skip


def values_event(
    step: int, losses: Sequence[float], gradient_norm: float | None, **fields: Any
) -> Event:
    """The values of a step were read."""
    return {
        "event": "values", "step": step, "losses": list(losses), "gradient_norm": gradient_norm,
        **fields,
    }  # fmt: skip


def window_event(first: int, last: int, seconds: float, **counters: Any) -> Event:
    """A timing window was closed; `counters` are added to those of a steady one."""
    window = {
        "first": first,
        "last": last,
        "seconds": seconds,
        "cpu_seconds": seconds,
        "compilations": 0,
        "executions": last - first + 1,
        "transfers": 0,
        "compile_seconds": 0.0,
        "fallbacks": {},
        "profiled": False,
        "inner_graphs": 0,
        **counters,
    }
    return {"event": "window", "window": window}


def write(
    folder: Path,
    events: Iterable[Event],
    parameters: Sequence[Mapping[str, Any]] = (),
    manifest: Mapping[str, Any] | None = None,
    log: str = "trained\n",
) -> Path:
    """Write a Record into `folder`; without a manifest, as it is before the harness writes that."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps(encode(event), allow_nan=False) + "\n" for event in events]
    (folder / STEPS).write_text("".join(lines))
    write_json(folder / PARAMETERS, {"schema": SCHEMA, "parameters": list(parameters)})
    (folder / LOG).write_text(log)
    if manifest is not None:
        write_json(folder / MANIFEST, manifest)
    return folder
