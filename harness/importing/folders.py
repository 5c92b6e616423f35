"""Finds what a trainer left in a folder: transformers' Trainer, torchprime, MaxText, torchtitan."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from harness.base.errors import BadInput
from harness.importing.events import read_events
from harness.importing.fetch import wanted
from harness.importing.lines import read_lines
from harness.importing.numbers import QUANTITIES, LoggedSource, Point, RunFacts, rounding, spacing

STATE = "trainer_state.json"
CONFIG = "train_config.json"
METRICS = "train_metrics.json"


def read_sources(path: Path) -> list[LoggedSource]:
    """Whatever is known in a file or a folder, the most exact first: of each number, the first
    that has it is believed.

    Raises BadInput where nothing is.
    """
    files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if wanted(p.name))
    found = list(_read(files))
    if not any(source.points for source in found):
        raise BadInput(
            f"{path}: no step of a training run was found in it ({len(files)} files were read). "
            "A Trainer's trainer_state.json, log lines of the Trainer or of torchprime, and "
            "TensorBoard scalars of either, of MaxText and of torchtitan are known"
        )
    return found


def _read(files: list[Path]) -> Iterator[LoggedSource]:
    events = [file for file in files if "tfevents" in file.name]
    if events and (source := read_events(events)) is not None:
        yield source
    states = [file for file in files if file.name == STATE]
    if states:
        # Each checkpoint has one; the outermost, or else the last, knows all.
        yield read_trainer_state(max(states, key=lambda p: (-len(p.parts), p.stat().st_mtime)))
    for file in files:
        if file.name == CONFIG:
            yield read_torchprime_config(file)
        elif file.name == METRICS:
            yield read_torchprime_metrics(file)
        elif file.suffix in (".log", ".out", ".txt") and (lines := read_lines(file)) is not None:
            yield lines


def read_trainer_state(path: Path) -> LoggedSource:
    """The log history of transformers' Trainer. It counts steps from 1, and averages losses."""
    state = _json(path)
    history = state.get("log_history")
    if not isinstance(history, list):
        raise BadInput(f"{path}: log_history is missing: it is no {STATE} of transformers")
    entries = [entry for entry in history if isinstance(entry, dict) and "loss" in entry]
    points = []
    for entry in entries:
        step = entry.get("step")
        if not isinstance(step, int) or step < 1:
            raise BadInput(f"{path}: log_history has step={step!r}: steps count from 1")
        points.append(
            Point(
                step - 1,
                _number(entry.get("loss")),
                _number(entry.get("learning_rate")),
                _number(entry.get("grad_norm")),
            )
        )
    steps = [point.step for point in points]
    printed = {
        name: [repr(value) for p in points if (value := getattr(p, name)) is not None]
        for name in QUANTITIES
    }
    limit = state.get("max_steps")
    return LoggedSource(
        f"{len(points)} entries of {path}",
        tuple(points),
        every=spacing([0, *(step + 1 for step in steps)]),
        rounding={name: rounding(texts) for name, texts in printed.items() if texts},
        facts=RunFacts(engine="hf", steps=limit if isinstance(limit, int) and limit > 0 else None),
    )


def read_torchprime_config(path: Path) -> LoggedSource:
    """What torchprime was asked for."""
    config = _json(path)
    task, dataset = config.get("task") or {}, config.get("dataset") or {}
    schedule = task.get("lr_scheduler") or {}
    facts = RunFacts(
        engine="torchprime",
        steps=_count(task.get("max_steps")),
        dtype=config.get("torch_dtype"),
        global_batch=_count(task.get("global_batch_size")),
        accumulation=_count(task.get("gradient_accumulation_steps")) or 1,
        max_norm=_number(task.get("max_grad_norm")),
        sequence_length=_count(dataset.get("block_size")),
        warmup_steps=schedule.get("warmup_steps"),
        arguments=config,
    )
    return LoggedSource(f"torchprime's configuration in {path}", facts=facts)


def read_torchprime_metrics(path: Path) -> LoggedSource:
    """What torchprime says of a run as a whole."""
    metrics = _json(path)
    seconds, steps = _number(metrics.get("step_execution_time")), metrics.get("num_steps")
    notes: tuple[str, ...] = ()
    if seconds:
        notes = (f"{path.name}: torchprime itself tells {seconds:.4g} s a step, from a profile",)
    return LoggedSource(
        f"torchprime's metrics in {path}",
        facts=RunFacts(engine="torchprime", steps=_count(steps)),
        notes=notes,
    )


def _json(path: Path) -> Mapping[str, Any]:
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise BadInput(f"{path} cannot be read: {error}") from None
    if not isinstance(found, dict):
        raise BadInput(f"{path}: it holds no JSON object")
    return found


def _number(value: Any) -> float | None:
    """A number, also one that is written as text; None for what is none."""
    if isinstance(value, bool) or value is None:
        return None
    try:
        return float(value)
    except (TypeError, ValueError):
        return None


def _count(value: Any) -> int | None:
    number = _number(value)
    whole = number is not None and math.isfinite(number) and number >= 1 and number == int(number)
    return int(number) if whole and number is not None else None
