"""What two runs were asked to train, held against each other before what they did.

Runs of two cases differ by what was asked for. That says nothing of their trainers.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from harness.base.dotted import dotted
from harness.config.case import Case
from harness.config.training import Shape
from harness.ladder.result import Result, RungResult
from harness.ladder.verdict import PairVerdict
from harness.record.evidence import AnyCase, Record

NAMES = ("name", "description", "window")
"""Keys of a case that say what it is called and how it is watched, not what is trained."""

IN_COMMON = (
    "dtype", "steps", "global_batch", "accumulation", "max_norm", "mesh", "data.sequence_length",
    *(f"model.{field.name}" for field in dataclasses.fields(Shape)),
)  # fmt: skip
"""Keys that a case shares with what `parity train` was given."""

WHOLE = ("mesh", "arguments")
"""Keys whose values are told in one piece."""

KEYS_SHOWN = 4
"""Differences that are told one by one."""


def difference(a: Record, b: Record) -> str | None:
    """In one sentence, in what the runs' cases differ; None where both asked for the same.

    What `parity train` was not told, or what its trainer was not asked for, is left out.
    """
    x, y = _flat(a.case), _flat(b.case)
    keys = dict.fromkeys((*x, *y))
    if not (isinstance(a.case, Case) and isinstance(b.case, Case)):
        keys = {key: None for key in IN_COMMON if None not in (x.get(key), y.get(key))}
    differing = [
        f"{key} is {_shown(x, key)} in {a.label} and {_shown(y, key)} in {b.label}"
        for key in keys
        if x.get(key, _NOT_THERE) != y.get(key, _NOT_THERE)
    ]
    if not differing:
        return None
    more = f" (and {len(differing) - KEYS_SHOWN} more)" if differing[KEYS_SHOWN:] else ""
    return f"the cases differ: {', '.join(differing[:KEYS_SHOWN])}{more}"


def of_two_cases(pair: PairVerdict, sentence: str) -> PairVerdict:
    """The verdict of runs of two cases: no rung is more than INVALID, whatever it found.

    sentence: in what they differ
    """
    first, *others = pair.rungs
    rungs = [_invalid(first, sentence), *(_invalid(rung, "not of one case") for rung in others)]
    return dataclasses.replace(pair, rungs=tuple(rungs))


_NOT_THERE = object()


def _invalid(rung: RungResult, why: str) -> RungResult:
    return dataclasses.replace(
        rung, result=Result.INVALID, explanation=f"{why} ({rung.explanation})", detects=""
    )


def _flat(case: AnyCase) -> dict[str, Any]:
    """Values by dotted keys."""
    plain = {k: v for k, v in dataclasses.asdict(case).items() if k not in NAMES}
    if isinstance(case, Case):  # a null of it stands for one of these
        plain["precision"] = case.matmul_precision
    leaves = dotted(plain, WHOLE)
    return {key: value for key, value in leaves if value != {} or key in WHOLE}


def _shown(values: Mapping[str, Any], key: str) -> str:
    return "nothing" if key not in values else str(values[key])
