"""The rung of step time: is one run as fast as the other?"""

from __future__ import annotations

import math
import statistics

from harness.config.settings import Tolerance
from harness.devices.device import device_of
from harness.ladder.comparison import Comparison
from harness.ladder.device_time import is_profiled, profile_fault, throughput
from harness.ladder.equivalence import (
    APART,
    Decision,
    judge_samples,
    locate,
    smallest_detectable,
)
from harness.ladder.result import Finding, Limit, Result, RungResult
from harness.ladder.rung import Rung
from harness.ladder.rungs.graph import steps_of, unobserved_steps
from harness.ladder.step_ratio import RatioInterval
from harness.ladder.timed import Launches, Timed, by_device, by_host, left_out, stalls_of_one_side
from harness.record.evidence import Record

FEWEST_WINDOWS = 2
"""Steady windows of one launch: a single one cannot even be told from a stall."""


def step_time(c: Comparison) -> RungResult:
    """Steady-state seconds per step: is their ratio within the tolerance, with confidence?

    Each launch of both sides is one observation. Judged by the device's own clock where its profile
    shows the step; otherwise by windows of the host's clock, pair by pair where both sides ran them
    in turns. Where a profile has to be there and cannot be believed the host's clock may fail a
    run, and passes none.
    """
    launches = c.timing or ((c.a, c.b),)
    for number, pair in enumerate(launches):
        for name, record in zip(c.names, pair, strict=True):
            if broken := _broken(record):
                text = f"{name}, launch {number + 1} of {len(launches)}: {broken}"
                return RungResult.invalid("step_time", text)
    faults = _profile_faults(c, launches)
    profiled = any(is_profiled(record) for pair in launches for record in pair)
    timed = by_device(launches) if profiled and not faults else by_host(launches)
    result = _too_few(c, timed, faults) or _judged(c, timed, launches, faults)
    if faults and result.result in (Result.PASS, Result.INCONCLUSIVE):
        text = f"{faults[0].text.rstrip('.')}. By the host's clock {result.explanation}"
        return RungResult.invalid("step_time", text, result.findings)
    return result


def _too_few(c: Comparison, timed: Timed, findings: tuple[Finding, ...]) -> RungResult | None:
    """Where a launch has too few windows to be judged by."""
    for name, side in zip(c.names, (timed.a, timed.b), strict=True):
        if min(map(len, side)) < FEWEST_WINDOWS:
            text = f"{name}: fewer than two steady windows; ask for more case.steps"
            if c.tolerance.judged_step_time is None:
                return RungResult.not_exercised("step_time", text, findings=findings)
            return RungResult.inconclusive("step_time", text, findings=findings)
    return None


def _judged(
    c: Comparison, timed: Timed, launches: Launches, findings: tuple[Finding, ...]
) -> RungResult:
    for record in (record for pair in launches for record in pair):
        findings += (*left_out(record), *_foreign(record))
    for record, side in ((c.a, timed.a), (c.b, timed.b)):
        usual = statistics.median(seconds for launch in side for seconds in launch)
        findings += (Finding(throughput(record, usual)),)
    tolerance = c.tolerance.judged_step_time
    if tolerance is None:
        located = locate(timed.a, timed.b, in_turns=timed.in_turns, rounds=c.rounds)
        text = f"{_shown(c, located, timed)}; not judged{_host_clock(c, timed)}. "
        return RungResult.not_exercised(
            "step_time", f"{text}tolerance.step_time=0.015 judges it", located.ratio, findings
        )
    judged = judge_samples(timed.a, timed.b, tolerance, in_turns=timed.in_turns, rounds=c.rounds)
    located, shown = judged.located, _shown(c, judged.located, timed)
    limit = Limit(1 + tolerance, "tolerance.step_time")
    if stalls := stalls_of_one_side(c.names, launches):
        text = f"{stalls[0].text}; {shown}"
        return RungResult.failed("step_time", text, located.ratio, limit, (*stalls, *findings))
    if judged.decision in APART:
        slower = judged.decision is Decision.FAIL_SLOWER
        text = f"{shown}: {'slower' if slower else 'faster, which is a finding too'}"
        return RungResult.failed("step_time", text, located.ratio, limit, findings)
    if judged.decision is Decision.INCONCLUSIVE:
        text = f"{shown}: {judged.why}"
        return RungResult.inconclusive("step_time", text, located.ratio, limit, findings)
    caught = f"a slowdown of {smallest_detectable(located, tolerance):.1%}"
    return RungResult.passed(
        "step_time", shown, located.ratio, limit, detects=caught, findings=findings
    )


def _shown(c: Comparison, located: RatioInterval, timed: Timed) -> str:
    interval = f"{100 * located.confidence:.3g}% interval {located.low:.3f}–{located.high:.3f}, "
    if located.launches == 1:  # from 0 to infinity
        interval = ""
    return (
        f"{c.names[1]} takes {located.ratio:.3f} × the time of {c.names[0]} "
        f"({interval}{timed.counted})"
    )


def _host_clock(c: Comparison, timed: Timed) -> str:
    """What has to be known of the host's clock on the device that was used."""
    used = device_of(c.a.observed)
    return f": {used.host_clock}" if timed.of_host and used and used.host_clock else ""


def _profile_faults(c: Comparison, launches: Launches) -> tuple[Finding, ...]:
    """What is wrong with profiles, where one run's step times are told by its device's own clock.

    Both sides have to be told by one clock, so that each run needs a profile then.
    """
    if not any(is_profiled(record) for pair in launches for record in pair):
        return ()
    found = []
    for number, pair in enumerate(launches, 1):
        for name, record in zip(c.names, pair, strict=True):
            if fault := profile_fault(record, c.tolerance.judged_step_time):
                found.append(Finding(f"{name}, launch {number} of {len(launches)}: {fault}"))
    return tuple(found)


def _foreign(record: Record) -> tuple[Finding, ...]:
    """A device whose plugin was loaded in the place of another one's: no profile is known of it."""
    used = device_of(record.observed)
    if used is None or used.planes is None or is_profiled(record):
        return ()
    kind = record.observed.device_kind
    return (Finding(f"{record.label}: by the host's clock, as no profile is known of {kind}"),)


def judge_launches(launches: Launches, tolerance: Tolerance, rounds: int) -> RungResult:
    """The step-time rung of these launches alone; whoever may look again does if INCONCLUSIVE."""
    a, b = launches[0]
    return step_time(Comparison(a, b, tolerance, timing=launches, rounds=rounds))


def _broken(record: Record) -> str | None:
    """Why the times of a run tell nothing."""
    if gap := unobserved_steps(record):
        return gap
    for window in record.windows:
        if not (math.isfinite(window.seconds) and window.seconds > 0):
            return f"{steps_of(window)} took {window.seconds} s"
    devices = () if record.device_times is None else record.device_times.seconds.values()
    for seconds in (seconds for device in devices for seconds in device):
        if not (math.isfinite(seconds) and seconds > 0):
            return f"a step took {seconds} s on a device"
    return None


RUNG = Rung(
    name="step_time",
    what="steady-state seconds per step",
    judge=step_time,
    follows=(
        "environment", "sharding", "forward", "backward", "clip", "optimizer", "graph", "compiled",
    ),
    from_numbers=True,
)  # fmt: skip
