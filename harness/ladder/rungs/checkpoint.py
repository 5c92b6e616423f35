"""The rung of save and resume: each trainer against itself without a break."""

from __future__ import annotations

import dataclasses
import math

from harness.ladder.comparison import Comparison, Resumption
from harness.ladder.result import EQUAL, Finding, RungResult
from harness.ladder.resumed import Limits, NotObserved, compared, differences
from harness.ladder.rung import Rung
from harness.ladder.rungs.grad_norm_curve import GRADIENT_NORM
from harness.ladder.rungs.loss_curve import COURSE, LOSSES


def checkpoint(c: Comparison) -> RungResult:
    """What was saved loads as a user would load it, and a resume goes on as if without a break."""
    sides = [(run, r) for run, r in zip("ab", c.resumptions, strict=True) if r is not None]
    if not sides:
        saves = [getattr(record.case, "save_at", None) for record in (c.a, c.b)]
        if saves == [None, None]:
            return RungResult.not_exercised("checkpoint", "the case saves nothing (case.save_at)")
        text = "no run that saves, and none that resumes, is beside these"
        return RungResult.not_exercised("checkpoint", text)
    if len(sides) == 1:
        left = c.names[0] if sides[0][0] == "b" else c.names[1]
        return RungResult.invalid("checkpoint", f"{left} was not saved and resumed")
    try:
        limits = _limits(c)
        found = [_of(run, r, limits) for run, r in sides]
    except NotObserved as error:
        return RungResult.invalid("checkpoint", str(error))
    findings = tuple(c.unshared([finding for side in found for finding in side]))
    if findings:
        heads = [next((f for f in findings if f.run == run), None) for run in "ab"]
        text = "; ".join(
            head.text + _more(sum(f.run == head.run for f in findings))
            for head in heads
            if head is not None
        )
        return RungResult.failed("checkpoint", text, len(findings), EQUAL, findings)
    text = "; ".join(f"{r.straight.label}: {compared(r)}" for _, r in sides if not any(found))
    text = text or "both versions fail to resume in the same way, which is no change"
    return RungResult.passed("checkpoint", text, 0, EQUAL, detects=DETECTS)


def _of(run: str, r: Resumption, limits: Limits) -> list[Finding]:
    """The findings of one side, with the run that they are of and its name."""
    return [
        dataclasses.replace(finding, run=run, text=f"{r.straight.label}: {finding.text}")
        for finding in differences(r, limits)
    ]


def _limits(c: Comparison) -> Limits:
    values = (c.limit(metric).value for metric in (LOSSES, GRADIENT_NORM, COURSE))
    return Limits(*(0.0 if math.isinf(value) else value for value in values))


def _more(count: int) -> str:
    return f" (and {count - 1} more)" if count > 1 else ""


DETECTS = "one bit of what comes back, or a loss beyond the limit of loss_curve"

RUNG = Rung(
    name="checkpoint",
    what="training when it is saved and resumed on its way, each as its own without a break",
    judge=checkpoint,
)
