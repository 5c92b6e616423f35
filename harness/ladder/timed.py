"""The timed windows of two trainers, launch by launch, and what only one of them shows in each."""

from __future__ import annotations

from dataclasses import dataclass

from harness.ladder.device_time import device_steps
from harness.ladder.result import Finding
from harness.ladder.rungs.graph import steps_of
from harness.ladder.stalls import recurring_stalls
from harness.record.evidence import Record, Window
from harness.record.steady import COMPILING_STEPS

Launches = tuple[tuple[Record, Record], ...]
"""The Records of both sides, launch by launch."""


@dataclass(frozen=True)
class Timed:
    """Seconds per step by launch, of both sides.

    what:     a person's name for one sample
    in_turns: sample j of both sides ran in turns
    of_host:  by the host's clock, not the device's
    """

    a: list[list[float]]
    b: list[list[float]]
    what: str
    in_turns: bool
    of_host: bool

    @property
    def counted(self) -> str:
        """How many samples of how many launches there are."""
        counts = " and ".join(str(sum(map(len, side))) for side in (self.a, self.b))
        launches = "one launch" if len(self.a) == 1 else f"{len(self.a)} launches"
        return f"{counts} {self.what} in {launches} a side"


def by_device(launches: Launches) -> Timed:
    """Gaps between the steps of each run's profile."""
    a, b = ([device_steps(pair[side]) for pair in launches] for side in (0, 1))
    return Timed(a, b, "gaps between device steps", in_turns=False, of_host=False)


def by_host(launches: Launches) -> Timed:
    """Windows of each run, in pairs where both sides ran them in turns.

    A window that is not steady on one side is then left out on both.
    """
    in_turns = all(
        a.manifest.turns is not None and a.manifest.turns == b.manifest.turns for a, b in launches
    )
    a, b = list[list[float]](), list[list[float]]()
    for pair in launches:
        x, y = (_by_steps(record) for record in pair)
        common = x.keys() & y.keys()
        for side, windows in ((a, x), (b, y)):
            timed = [w for steps, w in windows.items() if not in_turns or steps in common]
            side.append([_seconds(window) for window in timed])
    return Timed(a, b, "windows in turns" if in_turns else "windows", in_turns, of_host=True)


def stalls_of_one_side(names: tuple[str, str], launches: Launches) -> tuple[Finding, ...]:
    """Windows that are slow in every launch of one side only: a stall that is not the machine's."""
    if len(launches) < 2:
        return ()
    windows = [(_by_steps(a), _by_steps(b)) for a, b in launches]
    common = sorted(set.intersection(*(set(own) for pair in windows for own in pair)))
    if not common:
        return ()
    sides = [[[_seconds(pair[side][k]) for k in common] for pair in windows] for side in (0, 1)]
    a, b = recurring_stalls(*sides), recurring_stalls(*sides[::-1])
    findings = []
    for name, mine, others in ((names[0], a, b), (names[1], b, a)):
        both = {stall.window for stall in others}
        for stall in (stall for stall in mine if stall.window not in both):
            first, last = common[stall.window]
            where = f"step {first}" if first == last else f"steps {first}-{last}"
            text = f"{name} stalls at {where} in every launch, for {stall.ratio:.3g} × the time of "
            findings.append(Finding(f"{text}other windows", first))
    return tuple(findings)


def left_out(record: Record) -> tuple[Finding, ...]:
    """Windows after the compiling steps that tell no step time, because XLA compiled in them."""
    return tuple(
        Finding(f"{record.label}: {steps_of(w)} left out, XLA compiled {w.compilations} graphs")
        for w in record.windows
        if w.compilations and w.first >= COMPILING_STEPS
    )


def _by_steps(record: Record) -> dict[tuple[int, int], Window]:
    """Steady windows of full length: a shorter last one is dearer by the syncs at its ends."""
    windows = record.steady_windows
    full = max((w.steps for w in windows), default=0)
    return {(w.first, w.last): w for w in windows if w.steps == full}


def _seconds(window: Window) -> float:
    return window.seconds / window.steps
