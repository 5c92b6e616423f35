"""What a new baseline changes, as a table in Markdown that fits into a pull request."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from harness.gate.baselines import Baseline, version_of
from harness.ladder.distances import relative_difference
from harness.record.evidence import Record

COLUMNS = (
    "case", "device", "engine", "before", "after", "first loss", "last loss", "largest relative Δ",
    "final parameters", "torch_xla", "data", "made before by",
)  # fmt: skip


@dataclass(frozen=True)
class BaselineChange:
    """One baseline: what there was, if anything, and what takes its place."""

    before: Baseline | None
    after: Record


def table(changes: Sequence[BaselineChange]) -> str:
    """One row for each change. No number that differs is shown as equal."""
    lines = [f"| {' | '.join(COLUMNS)} |", "|" + " --- |" * len(COLUMNS)]
    for change in changes:
        cells = (_escape(cell) for cell in _cells(change))
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _cells(change: BaselineChange) -> list[str]:
    after, before = change.after, change.before
    old = None if before is None else before.record
    return [
        after.case.name,
        f"{after.observed.devices} {after.observed.device_kind}",
        after.engine,
        "none" if old is None else version_of(old),
        version_of(after),
        _pair(_loss(old, 0), _loss(after, 0)),
        _pair(_loss(old, -1), _loss(after, -1)),
        _largest(old, after),
        "" if old is None else equal_parameters(old, after),
        _pair(_package(old), _package(after)),
        _pair(_inputs(old), _inputs(after)),
        "" if before is None else f"{before.blessed.by}, {before.blessed.at[:10]}",
    ]


def _escape(text: str) -> str:
    return " ".join(text.replace("\\", "\\\\").replace("|", "\\|").split())


def _pair(old: str | None, new: str | None) -> str:
    return f"{new}" if old is None or old == new else f"{old} → {new}"


def _loss(record: Record | None, index: int) -> str | None:
    """Nine significant digits tell any two float32 apart."""
    if record is None or not record.steps:
        return None
    value = record.steps[index].loss
    return "none" if value is None else f"{value:.9g}"


def _package(record: Record | None) -> str | None:
    return None if record is None else str(record.observed.versions.get("torch_xla"))


def _inputs(record: Record | None) -> str | None:
    return None if record is None else record.manifest.inputs


def _largest(old: Record | None, new: Record) -> str:
    if old is None:
        return ""
    x, y = ([step.loss for step in record.steps] for record in (old, new))
    if len(x) != len(y):
        return f"{len(x)} → {len(y)} steps"
    distances = [relative_difference(p, q) for p, q in zip(x, y, strict=True)]
    if any(map(math.isnan, distances)):
        return "NaN"
    worst = max(distances)
    return "0" if worst == 0 else f"{worst:.2g} at step {distances.index(worst)}"


def equal_parameters(a: Record, b: Record) -> str:
    """How many parameters two runs ended with bit by bit."""
    left, right = ({p.name: p.final for p in r.parameters} for r in (a, b))
    if not left or left.keys() != right.keys():
        return "not the same parameters"
    if any(value is None for value in (*left.values(), *right.values())):
        return "not all observed"
    equal = sum(left[n].bits == right[n].bits for n in left if left[n] and right[n])  # type: ignore[union-attr]
    if equal == len(left):
        return f"all {equal} bitwise equal"
    return f"{len(left) - equal} of {len(left)} differ"
