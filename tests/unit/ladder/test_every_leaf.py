"""Every number, text and list of a Record, altered on one side: what still passes is no evidence.

Each leaf of parameters.json and steps.jsonl is altered everywhere that it occurs. A pair of runs
that was alike before passes no longer, or the Record is refused as damaged. What may still pass is
listed here, with why.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from builders import Trainer, comparison

from harness.base.errors import BadInput
from harness.ladder.judge import judge
from harness.ladder.result import Result
from harness.record.layout import PARAMETERS, STEPS
from harness.record.reader import read_record

Place = tuple[str, ...]
DELETED = object()
EACH = "*"
"""In a path: every element of a list."""


PASSING = {
    "another sum of the same tensor is judged: its sketch": {
        "parameters.*.after.*.norm: changed",
        "parameters.*.final.norm: changed",
    },
    "bits are judged where they have to be equal: before the first step": {
        "parameters.*.after.*.bits: changed",
        "parameters.*.final.bits: changed",
        "parameters.*.gradient.bits: changed",
        "parameters.*.state_after.*.exp_avg.bits: changed",
        "parameters.*.state_after.*.exp_avg_sq.bits: changed",
        "parameters.*.state_final.exp_avg.bits: changed",
        "parameters.*.state_final.exp_avg_sq.bits: changed",
    },
    "not every optimizer counts its updates; no PASS claims it": {
        "parameters.*.counted: deleted",
        "parameters.*.counted: null",
    },
    "hashes of tokens and labels are judged; these explain how they differ": {
        "batch.*.first_targets: changed",
        "batch.*.rows.*: changed",
        "batch.*.targets: changed",
    },
    "how an update is computed, and not what it is": {
        "optimizer.*.groups.*.hyper.foreach: deleted",
        "optimizer.*.groups.*.hyper.fused: deleted",
    },
    "which parameters a group holds is judged, by each parameter": {
        "optimizer.*.groups.*.parameters: changed",
    },
    "when it was": {"step.*.at: changed", "step.*.at: negative"},
    "the scale that was applied is as the case asks, by a function that is not watched": {
        "step.*.max_norm: null",
    },
    "a model that is given no labels computes no loss by itself": {
        "values.*.inputs.*.labels: deleted",
    },
    "no step time is judged on a CPU mesh": {
        "window.*.window.cpu_seconds: changed",
        "window.*.window.seconds: changed",
    },
    "two engines may cut their work differently between passes": {
        "window.*.window.executions: changed",
    },
    "said, and not claimed": {
        "window.*.window.inner_graphs: deleted",
        "window.*.window.inner_graphs: null",
    },
}
"""What still passes, by why it may."""


def _expected(name: str) -> set[str]:
    return {leaf for group in PASSING.values() for leaf in group if leaf.startswith(f"{name}.")}


def _scaled(value: Any) -> Any:
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value + 1
    return value * 1.3 if isinstance(value, float) else f"{value[::-1]}x"


def _cut(value: Any) -> Any:
    return value[:-1] if isinstance(value, list) else value


def _number(to: Any) -> Callable[[Any], Any]:
    return lambda v: to(v) if isinstance(v, int | float) and not isinstance(v, bool) else v


ALTERED: dict[str, Callable[[Any], Any]] = {
    "changed": lambda v: v if v is None or isinstance(v, list) else _scaled(v),
    "null": lambda v: None,
    "deleted": lambda v: DELETED,
    "shorter": _cut,
    "nan": _number(lambda v: "nan"),
    "negative": _number(lambda v: -v - 1),
}


def leaves(value: Any, path: Place = ()) -> Iterator[Place]:
    """The path of every list and of everything that holds nothing else."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from leaves(inner, (*path, key))
    elif isinstance(value, list):
        yield path
        for inner in value:
            yield from leaves(inner, (*path, EACH))
    else:
        yield path


def alter(value: Any, path: Place, how: Callable[[Any], Any]) -> Any:
    """The value with what lies at `path` altered, wherever that occurs."""
    if not path:
        return how(value)
    first, rest = path[0], path[1:]
    if first == EACH and isinstance(value, list):
        altered = [alter(inner, rest, how) for inner in value]
        return [inner for inner in altered if inner is not DELETED]
    if isinstance(value, dict) and first in value:
        altered_value = alter(value[first], rest, how)
        kept = {k: v for k, v in value.items() if k != first or altered_value is not DELETED}
        return {**kept, first: altered_value} if first in kept else kept
    return value


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    root = tmp_path_factory.mktemp("leaves")
    """Two runs that are alike within rounding."""
    one = Trainer(accumulation=2).write(root / "a")
    return one, Trainer(label="b", accumulation=2, sums=-1).write(root / "b")


def _events(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / STEPS).read_text().splitlines()]


def _passes(folders: tuple[Path, Path]) -> bool:
    try:
        pair = judge(comparison(*map(read_record, folders)))
    except BadInput:
        return False
    return all(r.result in (Result.PASS, Result.NOT_EXERCISED) for r in pair.rungs)


def _still_pass(
    folders: tuple[Path, Path],
    name: str,
    whole: Any,
    found: set[Place],
    write: Callable[[Any], None],
) -> set[str]:
    """Which of the alterations the pair passes with, as the place and what was done to it."""
    passing = set()
    for path in sorted(found):
        for kind, how in ALTERED.items():
            changed = alter(copy.deepcopy(whole), path, how)
            if changed == whole:
                continue
            write(changed)
            if _passes(folders):
                passing.add(f"{name}{'.'.join(path)}: {kind}")
    write(whole)
    assert _passes(folders)
    return passing


def test_parameters(folders: tuple[Path, Path]) -> None:
    path = folders[1] / PARAMETERS
    whole = json.loads(path.read_text())

    def write(value: Any) -> None:
        path.write_text(json.dumps(value))

    found = set(leaves(whole))
    assert len(found) > 20
    assert _still_pass(folders, "", whole, found, write) == _expected("parameters")


@pytest.mark.parametrize("kind", ["batch", "optimizer", "step", "values", "window"])
def test_events(folders: tuple[Path, Path], kind: str) -> None:
    path = folders[1] / STEPS
    events = _events(folders[1])

    def write(chosen: list[Any]) -> None:
        rest = iter(chosen)
        merged = [next(rest) if event["event"] == kind else event for event in events]
        path.write_text("".join(json.dumps(event) + "\n" for event in merged))

    chosen = [event for event in events if event["event"] == kind]
    found = {leaf for event in chosen for leaf in leaves(event, (EACH,))}
    assert len(found) > 5
    assert _still_pass(folders, f"{kind}.", chosen, found, write) == _expected(kind)
