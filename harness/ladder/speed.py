"""Rungs of speed: the compiled graph, as far as a run's own counters tell, and step time."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

from harness.ladder.comparison import Comparison
from harness.ladder.statistics import (
    Decision,
    RatioInterval,
    equivalence,
    ratio_interval,
    smallest_detectable,
    windows_needed,
)
from harness.ladder.verdict import Finding, Result, RungResult
from harness.probe.spec import COMPILING_STEPS
from harness.record import Record, Window


def steady_windows(record: Record) -> tuple[Window, ...]:
    """Windows after the compiling steps in which XLA compiled nothing."""
    return tuple(w for w in record.windows if w.first >= COMPILING_STEPS and not w.compilations)


def unobserved_steps(record: Record) -> str | None:
    """Where the windows do not tell of every step that was asked for just once; None if they do."""
    expected = 0
    for window in record.windows:
        if window.first != expected or window.last < window.first:
            return f"no window begins at step {expected}"
        expected = window.last + 1
    asked = record.asked_steps
    return None if expected == asked else f"windows tell of {expected} of {asked} steps"


def recompilations(record: Record) -> dict[str, int]:
    """Graphs compiled after the compiling steps, by the steps of their window."""
    return {
        _steps(w): w.compilations
        for w in record.windows
        if w.first >= COMPILING_STEPS and w.compilations
    }


def _steps(window: Window) -> str:
    if window.steps == 1:
        return f"step {window.first}"
    return f"steps {window.first}-{window.last}"


def fallbacks_per_step(record: Record) -> dict[str, float]:
    """Calls per steady step of operations that ran on the host, by name."""
    windows = steady_windows(record)
    total: Counter[str] = Counter()
    for window in windows:
        total.update(window.fallbacks)
    steps = sum(window.steps for window in windows)
    return {name: count / steps for name, count in sorted(total.items())}


def per_step(record: Record, counter: str) -> float:
    """A counter's mean per steady step."""
    windows = steady_windows(record)
    return float(sum(getattr(w, counter) for w in windows) / sum(w.steps for w in windows))


def graph(c: Comparison) -> RungResult:
    """Recompilations after warm-up, operations that fall back to the host, and what is executed.

    Recompilations and fallbacks are identities: neither belongs into a steady state. Executions
    and transfers a step are shown; two engines may cut their work differently and be at parity.
    """
    name_a, name_b = c.names
    for name, record in ((name_a, c.a), (name_b, c.b)):
        if gap := unobserved_steps(record):
            return RungResult("graph", Result.INVALID, f"{name}: {gap}")
        if not steady_windows(record):
            return RungResult("graph", Result.INVALID, f"{name}: no steady window was observed")
    findings = []
    again_a, again_b = recompilations(c.a), recompilations(c.b)
    if again_a != again_b:
        for name, again in ((name_a, again_a), (name_b, again_b)):
            for steps, count in again.items():
                text = f"{name} compiled {count} more graphs at {steps}, after warm-up"
                findings.append(Finding(text))
    falls_a, falls_b = fallbacks_per_step(c.a), fallbacks_per_step(c.b)
    for operation in sorted({*falls_a, *falls_b}):
        x, y = falls_a.get(operation, 0.0), falls_b.get(operation, 0.0)
        if x != y:
            text = f"{operation} runs on the host {x:g} times a step in {name_a}, {y:g} in {name_b}"
            findings.append(Finding(text, None, None, x, y))
    shown = "; ".join(
        f"{record.label}: {per_step(record, 'executions'):.2g} executions and "
        f"{per_step(record, 'transfers'):.2g} transfers a step"
        for record in (c.a, c.b)
    )
    if findings:
        text = f"{findings[0].text} ({shown})"
        return RungResult(
            "graph", Result.FAIL, text, len(findings), 0, "equal or not", "", tuple(findings)
        )
    both = f", both compile again at {', '.join(again_a)}" if again_a else ""
    return RungResult(
        "graph", Result.PASS, f"no difference in recompilations or fallbacks{both}; {shown}", 0, 0,
        "equal or not", "one recompilation after warm-up, or one operation on the host a step",
    )  # fmt: skip


def step_time(c: Comparison) -> RungResult:
    """Steady-state seconds per step: is their ratio within the tolerance, with confidence?"""
    name_a, name_b = c.names
    repeats_a, repeats_b = c.repeats_of(c.a), c.repeats_of(c.b)
    for name, repeats in ((name_a, repeats_a), (name_b, repeats_b)):
        for number, record in enumerate(repeats):
            if broken := _broken(record):
                text = f"{name}, run {number + 1} of {len(repeats)}: {broken}"
                return RungResult("step_time", Result.INVALID, text)
    samples_a, samples_b = _samples(repeats_a), _samples(repeats_b)
    judged = c.tolerance.step_time is not None
    for name, samples in ((name_a, samples_a), (name_b, samples_b)):
        if not all(samples) or sum(map(len, samples)) < 2:
            text = f"{name}: fewer than two steady windows; ask for more case.steps"
            result = Result.INCONCLUSIVE if judged else Result.NOT_EXERCISED
            return RungResult("step_time", result, text)
    # Windows are neighbours in time only where both runs have the same ones.
    paired = len(repeats_a) > 1 and [*map(_steps_timed, repeats_a)] == [
        *map(_steps_timed, repeats_b)
    ]
    interval = ratio_interval(samples_a, samples_b, paired=paired)
    shown = (
        f"{name_b} takes {interval.ratio:.3f} × the time of {name_a} (95 % interval "
        f"{interval.low:.3f}–{interval.high:.3f}, {interval.windows_a} and {interval.windows_b} "
        "windows)"
    )
    left_out = _left_out(repeats_a) + _left_out(repeats_b)
    if c.tolerance.step_time is None:
        return RungResult(
            "step_time", Result.NOT_EXERCISED,
            f"{shown}; not judged: on a CPU mesh a step is mostly host tracing. "
            "tolerance.step_time=0.05 judges it", interval.ratio, findings=left_out,
        )  # fmt: skip
    return _decide(interval, c.tolerance.step_time, shown, left_out)


def _broken(record: Record) -> str | None:
    """Why the times of a run tell nothing."""
    if gap := unobserved_steps(record):
        return gap
    for window in record.windows:
        if not (math.isfinite(window.seconds) and window.seconds > 0):
            return f"{_steps(window)} took {window.seconds} s"
    return None


def _timed(record: Record) -> list[Window]:
    """Steady windows of full length: a shorter last one is dearer by the syncs at its ends."""
    windows = steady_windows(record)
    full = max((w.steps for w in windows), default=0)
    return [w for w in windows if w.steps == full]


def _steps_timed(record: Record) -> list[tuple[int, int]]:
    return [(w.first, w.last) for w in _timed(record)]


def _samples(repeats: Sequence[Record]) -> list[list[float]]:
    """Seconds per step of each window that is timed, by repeat."""
    return [[w.seconds / w.steps for w in _timed(record)] for record in repeats]


def _left_out(repeats: Sequence[Record]) -> tuple[Finding, ...]:
    return tuple(
        Finding(f"{record.label}: {_steps(w)} left out, XLA compiled {w.compilations} graphs")
        for record in repeats
        for w in record.windows
        if w.compilations
    )


def _decide(
    interval: RatioInterval, tolerance: float, shown: str, left_out: tuple[Finding, ...]
) -> RungResult:
    decision = equivalence(interval, tolerance)
    source = "tolerance.step_time"
    if decision is Decision.INCONCLUSIVE:
        more = windows_needed(interval, tolerance)
        ask = (
            "the ratio is too near the limit to be decided"
            if more is None
            else f"about {more} more windows a side would decide"
        )
        return RungResult(
            "step_time", Result.INCONCLUSIVE, f"{shown}: {ask}", interval.ratio, 1 + tolerance,
            source, "", left_out,
        )  # fmt: skip
    if decision is Decision.PASS:
        caught = smallest_detectable(interval, tolerance)
        return RungResult(
            "step_time", Result.PASS, shown, interval.ratio, 1 + tolerance, source,
            f"a slowdown of {caught:.1%}", left_out,
        )  # fmt: skip
    how = "slower" if decision is Decision.FAIL_SLOWER else "faster, which is a finding too"
    return RungResult(
        "step_time", Result.FAIL, f"{shown}: {how}", interval.ratio, 1 + tolerance, source, "",
        left_out,
    )  # fmt: skip
