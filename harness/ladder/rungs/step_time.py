"""The rung of step time: is one run as fast as the other?"""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass

from harness.config.settings import Tolerance
from harness.devices.device import device_of
from harness.ladder.comparison import Comparison
from harness.ladder.device_time import device_samples, device_seconds, throughput
from harness.ladder.intervals import (
    Decision,
    RatioInterval,
    equivalence,
    smallest_detectable,
    windows_needed,
)
from harness.ladder.result import Finding, Limit, RungResult
from harness.ladder.rung import Rung
from harness.ladder.rungs.graph import steps_of, unobserved_steps
from harness.ladder.stalls import STALL, recurring_stalls
from harness.record.evidence import Record, Window

Launches = tuple[tuple[Record, Record], ...]
"""The Records of both sides, launch by launch."""

APART = (Decision.FAIL_SLOWER, Decision.FAIL_FASTER)
"""What an interval says that lies outside of the tolerance as a whole."""

WINSORISED = f"winsorised mean (no window counted for more than {STALL} medians)"
"""The mean with stalls cut short (Tukey, 1962): one spike is but a slow window."""


def step_time(c: Comparison) -> RungResult:
    """Steady-state seconds per step: is their ratio within the tolerance, with confidence?

    Judged by the device's own clock where every run was profiled; on windows that took
    turns, pair by pair, where there are such; otherwise on whole runs' windows, which a busy
    machine scatters far more.
    """
    launches = c.timing or ((c.a, c.b),)
    for number, pair in enumerate(launches):
        for name, record in zip(c.names, pair, strict=True):
            if broken := _broken(record):
                text = f"{name}, launch {number + 1} of {len(launches)}: {broken}"
                return RungResult.invalid("step_time", text)
    left_out = tuple(
        finding for pair in launches for record in pair for finding in _left_out(record)
    )
    samples = _samples(launches)
    for name, side in zip(c.names, (samples.a, samples.b), strict=True):
        if _too_few(side):
            text = f"{name}: fewer than two steady windows; ask for more case.steps"
            if c.tolerance.step_time is None:
                return RungResult.not_exercised("step_time", text)
            return RungResult.inconclusive("step_time", text)
    interval = samples.interval(confidence(c.looks))
    findings = left_out + tuple(
        Finding(throughput(record, statistics.median(t for launch in side for t in launch)))
        for record, side in zip((c.a, c.b), (samples.a, samples.b), strict=True)
    )
    return _judge_interval(c, samples, interval, _shown(c, interval, samples.what), findings)


@dataclass(frozen=True)
class _Samples:
    """Seconds per step by launch, of both sides.

    what:    a person's name for one sample
    paired:  sample j of both sides took turns
    of_host: by the host's clock, not the device's
    """

    a: list[list[float]]
    b: list[list[float]]
    what: str
    paired: bool
    of_host: bool

    def interval(self, confidence: float) -> RatioInterval:
        from harness.ladder.resampling import ratio_interval  # it imports numpy, in 0.15 s

        return ratio_interval(self.a, self.b, paired=self.paired, confidence=confidence)


def _samples(launches: Launches) -> _Samples:
    by_device = device_samples(launches)
    if by_device is not None:
        return _Samples(*by_device, "gaps between device steps", paired=False, of_host=False)
    paired = all(
        a.manifest.turns is not None and a.manifest.turns == b.manifest.turns for a, b in launches
    )
    what = "windows in turns" if paired else "windows"
    return _Samples(*samples_of(launches, paired), what, paired, of_host=True)


def _too_few(side: list[list[float]]) -> bool:
    """Whether a launch has no sample, or all of them have one: that has no scatter."""
    return not all(side) or sum(map(len, side)) < 2


def _shown(c: Comparison, interval: RatioInterval, what: str) -> str:
    return (
        f"{c.names[1]} takes {interval.ratio:.3f} × the time of {c.names[0]} "
        f"({interval.confidence:.0%} interval {interval.low:.3f}–{interval.high:.3f}, "
        f"{interval.windows_a} and {interval.windows_b} {what})"
    )


def _judge_interval(
    c: Comparison,
    samples: _Samples,
    interval: RatioInterval,
    shown: str,
    findings: tuple[Finding, ...],
) -> RungResult:
    if c.tolerance.step_time is None:
        return RungResult.not_exercised(
            "step_time",
            f"{shown}; not judged{_host_clock(c, samples)}. tolerance.step_time=0.015 judges it",
            interval.ratio, findings,
        )  # fmt: skip
    limit = Limit(1 + c.tolerance.step_time, "tolerance.step_time")
    stalls = _stalls(c)
    if stalls:
        return RungResult.failed(
            "step_time", f"{stalls[0].text}; {shown}", interval.ratio, limit,
            (*stalls, *findings),
        )  # fmt: skip
    undecided = _undecided(c, samples, interval, c.tolerance.step_time)
    if undecided is not None:
        return RungResult.inconclusive(
            "step_time", f"{shown}: {undecided}", interval.ratio, limit, findings
        )
    return _decide(interval, c.tolerance.step_time, limit, shown, findings)


def _host_clock(c: Comparison, samples: _Samples) -> str:
    """What has to be known of the host's clock on the device that was used."""
    used = device_of(c.a.observed)
    return f": {used.host_clock}" if samples.of_host and used and used.host_clock else ""


def _undecided(
    c: Comparison, samples: _Samples, located: RatioInterval, tolerance: float
) -> str | None:
    """Why the located ratio must not be judged; None if it may be.

    The midmean is blind to what happens in fewer than one window in four. So it fails by itself,
    but passes only where the mean is shown to be within the tolerance too: that with stalls cut
    winsorised, as a machine's spikes would make any mean uncertain.
    """
    if samples.of_host and not samples.paired and min(len(samples.a), len(samples.b)) < 2:
        return (
            "one launch a side says nothing of how launches differ, which is by 14 % on a shared "
            "machine; ask for timing.launches=4, or for windows in turns"
        )
    decision = equivalence(located, tolerance)
    if decision in APART:
        return None
    from harness.ladder.resampling import mean_ratio

    mean, winsorised = (
        mean_ratio(
            samples.a, samples.b, paired=samples.paired, clip=clip, confidence=confidence(c.looks)
        )
        for clip in (math.inf, STALL)
    )
    for name, ratio in (("mean", mean), (WINSORISED, winsorised)):
        beside = not located.low <= ratio.ratio <= located.high  # else it is but decided sooner
        if beside and equivalence(ratio, tolerance) in APART:
            stalling = f"but its {name} is {ratio.ratio:.3g} × as long: some windows stall"
            if min(len(samples.a), len(samples.b)) < 3:
                return f"{stalling}. Where they do in every launch is told with timing.launches=3"
            return f"{stalling}, but none by half in every launch of one side alone"
    if decision is Decision.PASS and equivalence(winsorised, tolerance) is not Decision.PASS:
        return (
            f"but its {WINSORISED} may be {winsorised.low:.3f} to {winsorised.high:.3f} × as long: "
            f"steps that are slow now and then are not excluded; {_ask(winsorised, tolerance)}"
        )
    return None


def _ask(interval: RatioInterval, tolerance: float) -> str:
    """What would decide an interval that is inconclusive."""
    more = windows_needed(interval, tolerance)
    if more is None:
        return "the ratio is too near the limit to be decided"
    return f"about {more} more windows a side would decide"


def confidence(looks: int) -> float:
    """Confidence of each interval where one may look several times (Bonferroni)."""
    return 1 - 0.05 / looks


def judge_launches(launches: Launches, tolerance: Tolerance, looks: int) -> RungResult:
    """The step-time rung of these launches alone; whoever may look again does if INCONCLUSIVE."""
    a, b = launches[0]
    return step_time(Comparison(a, b, tolerance, timing=launches, looks=looks))


def samples_of(launches: Launches, paired: bool) -> tuple[list[list[float]], list[list[float]]]:
    """Seconds per step of every window that is timed, by side and launch.

    `paired` leaves out a window on both sides where it is not steady on one.
    """
    sides: tuple[list[list[float]], list[list[float]]] = ([], [])
    for pair in launches:
        timed = [{(w.first, w.last): w for w in _timed(record)} for record in pair]
        for side, windows in zip(sides, timed, strict=True):
            keys = timed[0].keys() & timed[1].keys() if paired else windows.keys()
            side.append([windows[k].seconds / windows[k].steps for k in sorted(keys)])
    return sides


def _stalls(c: Comparison) -> list[Finding]:
    """Windows that are slow in every launch of one side only: a stall that is not the machine's."""
    if len(c.timing) < 2:
        return []
    timed = [[{(w.first, w.last): w for w in _timed(r)} for r in pair] for pair in c.timing]
    common = sorted(set.intersection(*(set(windows) for pair in timed for windows in pair)))
    if not common:
        return []
    sides = [
        [[pair[side][k].seconds / pair[side][k].steps for k in common] for pair in timed]
        for side in (0, 1)
    ]
    found = [
        {stall.window: stall.ratio for stall in recurring_stalls(mine, others)}
        for mine, others in (sides, sides[::-1])
    ]
    findings = []
    for side, (mine, other) in enumerate(((found[0], found[1]), (found[1], found[0]))):
        for index in sorted(mine.keys() - other.keys()):
            first, last = common[index]
            where = f"step {first}" if first == last else f"steps {first}-{last}"
            text = f"{c.names[side]} stalls at {where} in every launch, for {mine[index]:.3g} × "
            findings.append(Finding(f"{text}the time of other windows", first))
    return findings


def _broken(record: Record) -> str | None:
    """Why the times of a run tell nothing."""
    if gap := unobserved_steps(record):
        return gap
    for window in record.windows:
        if not (math.isfinite(window.seconds) and window.seconds > 0):
            return f"{steps_of(window)} took {window.seconds} s"
    for seconds in (seconds for device in device_seconds(record) for seconds in device):
        if not (math.isfinite(seconds) and seconds > 0):
            return f"a step took {seconds} s on a device"
    return None


def _timed(record: Record) -> list[Window]:
    """Steady windows of full length: a shorter last one is dearer by the syncs at its ends."""
    windows = record.steady_windows
    full = max((w.steps for w in windows), default=0)
    return [w for w in windows if w.steps == full]


def _left_out(record: Record) -> tuple[Finding, ...]:
    return tuple(
        Finding(f"{record.label}: {steps_of(w)} left out, XLA compiled {w.compilations} graphs")
        for w in record.windows
        if w.compilations
    )


def _decide(
    interval: RatioInterval,
    tolerance: float,
    limit: Limit,
    shown: str,
    findings: tuple[Finding, ...],
) -> RungResult:
    decision = equivalence(interval, tolerance)
    if decision is Decision.INCONCLUSIVE:
        text = f"{shown}: {_ask(interval, tolerance)}"
        return RungResult.inconclusive("step_time", text, interval.ratio, limit, findings)
    if decision is Decision.PASS:
        caught = f"a slowdown of {smallest_detectable(interval, tolerance):.1%}"
        return RungResult.passed(
            "step_time", shown, interval.ratio, limit, detects=caught, findings=findings
        )
    how = "slower" if decision is Decision.FAIL_SLOWER else "faster, which is a finding too"
    return RungResult.failed("step_time", f"{shown}: {how}", interval.ratio, limit, findings)


RUNG = Rung(
    name="step_time",
    what="steady-state seconds per step",
    judge=step_time,
)
