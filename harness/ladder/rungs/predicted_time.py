"""The predicted_time rung: how long a step would take on a slice that need not be there, by the
estimates of the TPU's own compiler.

Seconds are worth little. What two steps on one chip have in common cancels out of their ratio, and
what differs has the uncertainty of the estimates, which a real profile tells.
"""

from __future__ import annotations

from dataclasses import dataclass

from harness.compiler.compiled import CompiledStep
from harness.compiler.explain import on_common_paths
from harness.compiler.predicted import IN_TURN, Parts, Predicted
from harness.devices.device import device
from harness.ladder.comparison import Comparison
from harness.ladder.result import Finding, Limit, Result, RungResult
from harness.ladder.rung import Rung

NAME = "predicted_time"

WORTH = {
    "products": (0.9, 1.1),
    "fusions": (0.7, 0.9),
    "copies": (0.5, 1.0),
    "kernels": (1.0, 2.0),
    "unestimated": (0.5, 2.0),
    "exposed": (0.5, 2.0),
    "dcn": (0.5, 2.0),
}
"""Time that a TPU takes over the time that is predicted, least and most, by part. The first three
are what `parity calibrate` finds on a public profile of a v6e, operation by operation, without its
largest outlier of each kind: 0.96 to 1.10 for products, 0.72 to 0.82 for other fusions, 0.53 to
0.99 for copies. A kernel takes its bundles at least, and longer where one waits for memory. The
others were never measured here."""

CAUSES_SHOWN = 10


@dataclass(frozen=True)
class Ratio:
    """The second step's time over the first's, with its least and most."""

    value: float
    low: float
    high: float


def predicted_time(c: Comparison) -> RungResult:
    """Every target whose steps have a predicted time. The worst of them is the result."""
    timed = [pair for pair in c.compiled if any(step.predicted for step in pair)]
    if not timed:
        text = "no time was asked for (compiler.depth=timed predicts it, where a target is named)"
        return RungResult.not_exercised(NAME, text)
    results = [judge_times(c.names, pair) for pair in timed]
    for worst in (Result.FAIL, Result.INVALID, Result.INCONCLUSIVE):
        if found := next((r for r in results if r.result is worst), None):
            return found
    furthest = max(results, key=lambda result: result.value or 0.0)
    return RungResult.passed(
        NAME, "; ".join(result.explanation for result in results), furthest.value,
        _limit(), detects=furthest.detects,
        findings=tuple(finding for result in results for finding in result.findings),
    )  # fmt: skip


def judge_times(
    names: tuple[str, str], pair: tuple[CompiledStep, CompiledStep], only_more: bool = False
) -> RungResult:
    """One target, by the predicted times of two compiled steps.

    only_more: the second may take less time than the first
    """
    times: list[Predicted] = []
    for name, step in zip(names, pair, strict=True):
        if step.predicted is None:
            why = step.error or step.unknown or "its time was not asked for"
            text = f"{name} has no predicted time for {step.target}: {why}"
            return RungResult.invalid(NAME, text.splitlines()[0])
        times.append(step.predicted)
    named = list(zip(names, times, strict=True))
    shown = tuple(Finding(f"{name}: {_shown(time)}") for name, time in named)
    where, limit = f"for {pair[0].target}", _limit()
    missing = [f"{name}: {'; '.join(time.missing)}" for name, time in named if time.missing]
    if missing:
        text = f"{where} not all of the step has a time: {missing[0]}"
        return RungResult.inconclusive(NAME, text, None, limit, shown)
    a, b = times
    found = ratio(a, b)
    slower = names[1] if found.value > 1 else names[0]
    text = (
        f"{where} the predicted time of {names[1]} is {found.value:.3f} of {names[0]}'s "
        f"({found.low:.3f} to {found.high:.3f}): {_milliseconds(b.parts.seconds)} against "
        f"{_milliseconds(a.parts.seconds)}"
    )
    findings = (*shown, *map(Finding, causes(names, a, b)))
    most = 1 + limit.value
    least = 0.0 if only_more else 1 / most
    value = 0.0 if only_more and found.value < 1 else abs(found.value - 1)
    if found.high <= most and found.low >= least:
        return RungResult.passed(
            NAME, text, value, limit, detects=f"{limit.value:.0%} more time", findings=findings
        )
    if found.low > most or found.high < least:
        text = f"{text}; {slower} is slower"
        return RungResult.failed(NAME, text, value, limit, findings)
    text = f"{text}, which the estimates are not good enough to tell from {limit.value:.0%}"
    return RungResult.inconclusive(NAME, text, value, limit, findings)


def ratio(a: Predicted, b: Predicted) -> Ratio:
    """Times of the second over the first, with the uncertainty of what differs.

    Of what both do alike, by module of the model, the errors are the same; what one does more of
    may be wrong by itself (`WORTH`), and so may the whole that it is compared with.
    """
    low = high = 0.0
    for part in IN_TURN:
        least, most = WORTH[part]
        for more in _differences(a, b, part).values():
            low += more * (least if more > 0 else most)
            high += more * (most if more > 0 else least)
    whole = a.parts
    smallest, largest = (
        sum(getattr(whole, part) * WORTH[part][end] for part in IN_TURN) for end in (0, 1)
    )
    if not smallest:
        return Ratio(1.0, 0.0, float("inf"))
    return Ratio(
        value=b.parts.seconds / whole.seconds,
        low=max(0.0, 1 + low / (largest if low > 0 else smallest)),
        high=1 + high / (smallest if high > 0 else largest),
    )


def causes(names: tuple[str, str], a: Predicted, b: Predicted) -> tuple[str, ...]:
    """What makes the difference, by module of the model and part, the largest first."""
    found = [
        (abs(more), f"{names[more > 0]}: {_milliseconds(abs(more))} more a step in {path} ({part})")
        for part in IN_TURN
        for path, more in _differences(a, b, part).items()
        if abs(more) > 1e-3 * a.parts.seconds
    ]
    return tuple(text for _, text in sorted(found, reverse=True)[:CAUSES_SHOWN])


def _differences(a: Predicted, b: Predicted, part: str) -> dict[str, float]:
    """Seconds that the second has more of in a part, by module of the model."""
    of_a, of_b = on_common_paths(*({p: _ps(w, part) for p, w in s.work.items()} for s in (a, b)))
    return {p: (of_b[p] - of_a[p]) * 1e-12 for p in sorted({*of_a, *of_b}) if of_b[p] != of_a[p]}


def _ps(parts: Parts, part: str) -> int:
    return round(1e12 * float(getattr(parts, part)))


def _limit() -> Limit:
    limit = device("tpu").step_time
    assert limit is not None, "a TPU judges step times"
    return Limit(limit, "the tolerance of step times on a TPU")


def _shown(found: Predicted) -> str:
    """A time with its parts."""
    parts = found.parts
    titles = {
        "products": "matrix products", "fusions": "other fusions", "copies": "copies",
        "kernels": "kernels", "unestimated": "by bytes alone", "exposed": "collectives exposed",
        "dcn": "between slices",
    }  # fmt: skip
    named = [f"{title} {_milliseconds(getattr(parts, p))}" for p, title in titles.items()]
    return (
        f"{_milliseconds(parts.seconds)} = {' + '.join(named)}; "
        f"collectives hidden {_milliseconds(parts.hidden)}"
    )


def _milliseconds(seconds: float) -> str:
    return f"{seconds * 1e3:.4g} ms"


RUNG = Rung(
    NAME,
    "time of a step on a slice, as the TPU's own compiler estimates its operations",
    predicted_time,
    traced=True,
)
