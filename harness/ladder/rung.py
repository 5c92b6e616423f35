"""A rung of the ladder: all that the harness knows of it, in one object."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from harness.ladder.comparison import Comparison
from harness.ladder.metric import Metric
from harness.ladder.result import RungResult

Judge = Callable[[Comparison], RungResult]
"""Pure: judges one pair of Records by what they hold."""


class Stage(Enum):
    """How far a run came that failed by what it was made of."""

    STARTING = "before its first batch"
    FIRST_STEP = "in its first step"
    TRAINING = "after its first step"


@dataclass(frozen=True)
class Rung:
    """One question that is asked of two runs.

    name:        as in verdicts and in the names of tests
    what:        "the two runs have the same …", one line for README, docs and help
    judge:       answers it
    needs:       rungs above without which the answer means nothing: it is INVALID then
    partly:      rungs above without which only a part of it is judged
    follows:     rungs above that may be why this one fails: from the first step at which one of
                 them fails, it is INVALID where it would FAIL. What it passes, it passes
    metrics:     what it measures, with their floors; none for an identity
    compares:    one of what its metric compares, as in "differences up to 0.06 of a gradient": a
                 PASS of a noisy case names it in its headline; "" for what is not named there
    noisy:       limit from which on its PASS hides faults that people look for
    float64_per_run: rungs above that compare weights and batch: where one of them does not hold,
                 `judge` can hold each run against float64 from that run's own
                 (`Comparison.float64_per_run`), and needs no other rung
    prepared:    kinds of cases (`harness.config.case.KINDS`) in which the harness itself brings it
                 about, so that no version of a trainer can be blamed for it
    blamed_for:  a gated version that fails at this stage fails this rung
    from_numbers: it can be judged by the numbers that a trainer logs, so that an imported run has
                 all that it needs; the others rest on what only the probe sees
    traced:      judged by steps alone that were traced and not executed (`Record.staged`)
    after:       for a rung from another package: the name of the rung that it follows; "" is last
    """

    name: str
    what: str
    judge: Judge
    needs: tuple[str, ...] = ()
    partly: tuple[str, ...] = ()
    follows: tuple[str, ...] = ()
    metrics: tuple[Metric, ...] = ()
    compares: str = ""
    noisy: float = math.inf
    float64_per_run: tuple[str, ...] = ()
    prepared: tuple[str, ...] = ()
    blamed_for: Stage | None = None
    from_numbers: bool = False
    traced: bool = False
    after: str = ""

    def metric(self, name: str) -> Metric | None:
        """Its metric of that name."""
        return next((metric for metric in self.metrics if metric.name == name), None)
