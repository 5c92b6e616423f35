"""The rung of learning rates."""

from __future__ import annotations

import dataclasses

from harness.config.case import Case
from harness.ladder import against_case
from harness.ladder.comparison import Comparison
from harness.ladder.curve import Rates, furthest, lagging
from harness.ladder.distances import by_name, exceeds, largest, relative_difference
from harness.ladder.imported import imported_runs
from harness.ladder.result import Finding, Limit, RungResult
from harness.ladder.rung import Rung
from harness.ladder.same_work import skipped_updates
from harness.record.evidence import Record

RATE_LIMIT = Limit(1e-9, "rounding of Python floats")
"""Relative difference of learning rates, which are Python floats: far above their rounding (1e-16)
and far below any difference of two schedules."""


def schedule(c: Comparison) -> RungResult:
    """The learning rate that each step really used, for every parameter.

    Up to the first update that was skipped: a schedule goes on without it, and every rate after it
    is that of another step.
    """
    name_a, name_b = c.names
    skipped = [step for record in (c.a, c.b) for step in skipped_updates(record)]
    left, right = (
        {step: rate for step, rate in rates.items() if not skipped or step < min(skipped)}
        for rates in _rates(c)
    )
    limit = _limit(c)
    if not left:
        return RungResult.invalid("schedule", "no step and parameter is in both runs")
    for name, series in ((name_a, left), (name_b, right)):
        for step, rates in series.items():
            if None in rates:
                text = f"{name}: a learning rate of step {step} was not observed"
                return RungResult.invalid("schedule", text)
    differences = {step: furthest(left[step], right[step]) for step in left}
    findings = tuple(
        Finding(f"step {i}: {name_a} used {_rate(left[i])}, {name_b} {_rate(right[i])}", i, None,
                left[i], right[i])
        for i, difference in differences.items()
        if exceeds(difference, limit.value)
    )  # fmt: skip
    if findings and (shorter := [r for r in (c.a, c.b) if _of_other_length(r)]):
        text = "; ".join(
            f"{r.label} uses the rates of {r.trained_steps} steps, as many as it trained"
            for r in shorter
        )
        return RungResult.invalid("schedule", text, findings)
    if findings and imported_runs(c) and (lag := _lag(c, left, right)):
        text = f"{lag} in what is logged: which rate was used is not shown; {findings[0].text}"
        return RungResult.invalid("schedule", text, findings)
    if findings:
        text, value = _explain(c, findings, left, right), largest(differences.values())
        return RungResult.failed("schedule", text, value, limit, findings)
    for name, record in zip(c.names, (c.a, c.b), strict=True):
        if not skipped and (missing := record.first_missing_step) is not None:
            text = f"{len(left)} learning rates agree, but {name} has no step {missing}"
            return RungResult.invalid("schedule", text)
    for record in (c.a, c.b):
        found = against_case.schedule(record, RATE_LIMIT.value)
        if other := tuple(f for f in found if f.step in left):
            value = relative_difference(other[0].a, other[0].b)
            return RungResult.failed("schedule", other[0].text, value, RATE_LIMIT, other)
    if skipped:
        text = f"{len(left)} learning rates agree, up to the update that was skipped at step "
        return RungResult.invalid("schedule", f"{text}{min(skipped)}")
    peak = max(rate or 0.0 for rates in left.values() for rate in rates)
    if peak <= 0:
        return RungResult.not_exercised("schedule", "no learning rate is positive")
    return RungResult.passed(
        "schedule", f"{len(left)} learning rates agree (peak {peak:g})",
        largest(differences.values()), limit,
        detects=f"a relative difference of {limit.value:g}",
    )  # fmt: skip


def _limit(c: Comparison) -> Limit:
    """Rounding of Python floats, and of the digits that were printed where a run was imported."""
    printed = c.rounding("learning_rate")
    if printed <= RATE_LIMIT.value:
        return RATE_LIMIT
    return Limit(2 * printed, "the digits that were printed of imported numbers")


def _rates(c: Comparison) -> tuple[dict[int, Rates], dict[int, Rates]]:
    """The rates that both runs used, by step, in the same order.

    One rate stands for all parameters that share a group in both runs: groups need not be cut
    alike, and the same rates given to other parameters are not the same rates.
    """
    left, right = by_name(c.a), by_name(c.b)
    groups = sorted(
        {
            (x, y)
            for name in left.keys() & right.keys()
            if (x := left[name].group) is not None and (y := right[name].group) is not None
        }
    )
    if imported_runs(c):
        groups = [(0, 0)]  # a trainer logs the rate of its first group alone
    steps = [{s.index: s.learning_rates for s in r.steps} for r in (c.a, c.b)]
    common = sorted(steps[0].keys() & steps[1].keys()) if groups else []
    first, second = (
        {
            step: tuple(
                rates[step][pair[side]] if pair[side] < len(rates[step]) else None
                for pair in groups
            )
            for step in common
        }
        for side, rates in enumerate(steps)
    )
    return first, second


def _of_other_length(record: Record) -> bool:
    """Whether a run's rates are those of its case, but for as many steps as it trained."""
    case, trained = record.case, record.trained_steps
    if not isinstance(case, Case) or trained == case.steps:
        return False
    shorter = dataclasses.replace(case, steps=trained)
    manifest = dataclasses.replace(record.manifest, case=shorter)
    return not against_case.schedule(
        dataclasses.replace(record, manifest=manifest), RATE_LIMIT.value
    )


def _rate(rates: Rates) -> str:
    return " and ".join(f"{rate:.6g}" for rate in dict.fromkeys(rates) if rate is not None)


def _explain(
    c: Comparison, findings: tuple[Finding, ...], left: dict[int, Rates], right: dict[int, Rates]
) -> str:
    """What kind of difference it is: a lag, a factor, or the first step that differs."""
    text = findings[0].text
    if lag := _lag(c, left, right):
        return f"{lag}; {text}"
    if len(findings) == 1:
        return text
    pairs = [(x, y) for i in left for x, y in zip(left[i], right[i], strict=True) if x and y]
    ratios = [y / x for x, y in pairs]
    constant = ""
    if ratios and max(ratios) - min(ratios) <= _limit(c).value * max(map(abs, ratios)):
        constant = f", always {ratios[0]:g} times as much"
    return f"{text}{constant} ({len(findings)} of {len(left)} steps differ)"


def _lag(c: Comparison, left: dict[int, Rates], right: dict[int, Rates]) -> str:
    """Which run is one step late, in words; "" where neither is."""
    lag = lagging(list(left.values()), list(right.values()), _limit(c).value)
    late = c.names[1] if lag > 0 else c.names[0]
    return f"a lag of one step: {late} uses the rate of the step before" if lag else ""


RUNG = Rung(
    name="schedule",
    what="learning rate that each step really used",
    judge=schedule,
    from_numbers=True,
)
