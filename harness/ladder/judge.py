"""Judges one pair: every rung in causal order, and which of them say something."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

from harness.ladder.comparison import Comparison
from harness.ladder.float64 import who_deviates
from harness.ladder.noise_floor import checked
from harness.ladder.rungs import (
    clip,
    curves,
    first_step,
    preconditions,
    schedule,
)
from harness.ladder.rungs import (
    graph as counters,
)
from harness.ladder.rungs import (
    optimizer as update,
)
from harness.ladder.rungs import (
    step_time as speed,
)
from harness.ladder.verdict import RUNGS, PairVerdict, Result, RungResult
from harness.record.outcome import OK, SHORT

Rung = Callable[[Comparison], RungResult]

JUDGES: dict[str, Rung] = {
    "environment": preconditions.environment,
    "sharding": preconditions.sharding,
    "data": preconditions.data,
    "init": preconditions.init,
    "forward": first_step.forward,
    "backward": first_step.backward,
    "clip": clip.clip,
    "optimizer": update.optimizer,
    "schedule": schedule.schedule,
    "loss_curve": curves.loss_curve,
    "grad_norm_curve": curves.grad_norm_curve,
    "graph": counters.graph,
    "step_time": speed.step_time,
}

NEEDS: dict[str, tuple[str, ...]] = {
    "forward": ("data", "init"),
    "backward": ("data", "init", "forward"),
    "loss_curve": ("data", "init", "forward", "backward", "clip", "optimizer", "schedule"),
    "grad_norm_curve": (
        "data", "init", "forward", "backward", "clip", "optimizer", "schedule", "loss_curve",
    ),
}  # fmt: skip
"""Rungs whose evidence means nothing unless these hold. The others are judged by themselves."""

UPDATES_NEED = ("data", "init", "backward", "clip")
"""What has to hold, beside the schedule, for the first updates to be comparable."""


LARGEST = {"forward": 1.0, "backward": 2.0, "clip": 1.0, "optimizer": 2.0}
"""The largest that the distance of a rung can be: of numbers of one sign 1, of tensors 2."""


def judge(comparison: Comparison) -> PairVerdict:
    """The whole ladder for one pair of runs.

    A run that crashed or was ended makes every rung INVALID, with how it ended. A run that stopped
    early by itself is judged as far as its evidence goes, and never passes.
    """
    a, b = comparison.a, comparison.b
    for record in (a, b):
        ended = record.ended
        if ended["status"] not in (OK, SHORT) or record.trained_steps == 0:
            reason = ended.get("reason", "it left no step")
            return _all_invalid(comparison, f"{record.label} {ended['status']}: {reason}")
    comparison, notes = checked(comparison)
    results: dict[str, RungResult] = {}
    for name in RUNGS:
        if name == "forward" and all(_holds(results[n]) for n in ("data", "init")):
            # Equal weights and batches: the runs themselves are compared.
            comparison = dataclasses.replace(comparison, own={})
        broken = [n for n in NEEDS.get(name, ()) if not _holds(results[n])]
        if name in ("forward", "backward") and comparison.own:
            broken = []  # each run is judged against float64 from its own weights and batch
        if name == "optimizer":
            # An update is made of a learning rate too, although its rung comes below.
            made_alike = all(_holds(results[n]) for n in UPDATES_NEED)
            made_alike = made_alike and _holds(schedule.schedule(comparison))
            result = update.optimizer(comparison, made_alike)
        elif name == "clip":
            result = clip.clip(comparison, all(_holds(results[n]) for n in ("data", "init")))
        else:
            result = JUDGES[name](comparison)
        if broken and result.result not in (Result.INVALID, Result.NOT_EXERCISED):
            result = dataclasses.replace(
                result,
                result=Result.INVALID,
                explanation=f"says nothing while {broken[0]} does not hold ({result.explanation})",
                detects="",
            )
        results[name] = _resolved(result)
    notes += who_deviates(comparison, results)
    return PairVerdict(
        a.label, b.label, str(a.directory), str(b.directory), tuple(results.values()), notes
    )


def _resolved(result: RungResult) -> RungResult:
    """A PASS within a limit that nothing could have exceeded is none."""
    largest = LARGEST.get(result.rung, math.inf)
    if result.result is not Result.PASS or result.limit is None or result.limit < largest:
        return result
    text = f"nothing could exceed the limit of {result.limit:.2g}: the case is too noisy for this "
    text += f"rung; ask for float32, or for other weights or data ({result.explanation})"
    return dataclasses.replace(result, result=Result.INCONCLUSIVE, explanation=text, detects="")


def _holds(result: RungResult) -> bool:
    return result.result in (Result.PASS, Result.NOT_EXERCISED)


def _all_invalid(comparison: Comparison, reason: str) -> PairVerdict:
    a, b = comparison.a, comparison.b
    notes = [
        "\n".join([f"last lines of {record.label}'s log:", *record.ended.get("log", ())])
        for record in (a, b)
        if record.ended.get("log")
    ]
    rungs = tuple(RungResult(name, Result.INVALID, reason) for name in RUNGS)
    return PairVerdict(a.label, b.label, str(a.directory), str(b.directory), rungs, tuple(notes))
