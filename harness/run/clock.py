"""Where the seconds of a session go, beside those of its runs, which their Records tell."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from pathlib import Path

from harness.ladder.comparison import Comparison
from harness.ladder.judge import judge
from harness.ladder.verdict import PairVerdict
from harness.record.evidence import Record


class SessionClock:
    """The clock of one session. It begins when it is made."""

    def __init__(self) -> None:
        self.began = time.time()
        self.judging = 0.0

    def judge(self, comparison: Comparison) -> PairVerdict:
        """What the ladder says of it."""
        start = time.perf_counter()
        verdict = judge(comparison)
        self.judging += time.perf_counter() - start
        return verdict

    def seconds(self, runs: Iterable[Record]) -> dict[str, float]:
        """Seconds by phase, up to now.

        runs:    of trainers that were launched since the clock began
        judging: their Records
        writing: and reading Records, and whatever else there was between runs
        """
        launched = covered(
            (r.manifest.started, r.manifest.started + r.ended.seconds)
            for r in runs
            if r.manifest.started >= self.began
        )
        writing = time.time() - self.began - launched - self.judging
        return {"runs": launched, "judging": self.judging, "writing": writing}


def covered(spans: Iterable[tuple[float, float]]) -> float:
    """Seconds that lie in any of these spans, which may overlap, as runs do that are at once.

    >>> covered([(0.0, 10.0), (8.0, 12.0), (20.0, 21.0)])
    13.0
    """
    seconds, until = 0.0, float("-inf")
    for start, end in sorted(spans):
        seconds += max(0.0, end - max(start, until))
        until = max(until, end)
    return seconds


def since_start() -> float:
    """Seconds since this process was started, imports included."""
    fields = Path("/proc/self/stat").read_text().rsplit(")", 1)[1].split()
    started = int(fields[19]) / os.sysconf("SC_CLK_TCK")  # after the machine's own start
    return time.clock_gettime(time.CLOCK_BOOTTIME) - started
