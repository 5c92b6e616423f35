"""Timing windows: opened and closed by device syncs between steps, never within a window."""

from __future__ import annotations

import time
from typing import Any

from harness.probe.runtime import Runtime
from harness.probe.spec import Spec
from harness.probe.turns import Turns
from harness.probe.writer import Writer
from harness.record.steady import COMPILING_STEPS


class Windows:
    """The windows of one run: steps 0 and 1 alone, then `spec.window` steps each.

    What the probe reads between windows is outside of all of them.
    """

    def __init__(self, spec: Spec, writer: Writer, runtime: Runtime, turns: Turns | None) -> None:
        self.spec, self.writer, self.runtime, self.turns = spec, writer, runtime, turns
        self.first = 0
        self.profiling = False
        # Of the open window; whoever watches the passes adds to it. None where one had no end.
        self.inner_graphs: int | None = 0
        self.start: tuple[float, float, dict[str, Any]] | None = None

    def is_due(self, last: int) -> bool:
        """Whether the window that `last` is the latest step of has to be closed."""
        if last < COMPILING_STEPS or last == self.spec.steps - 1:
            return True
        if self.spec.saving is not None and last + 1 == self.spec.saving.after:
            return True
        return last - self.first + 1 >= self.spec.window

    def open(self, first: int) -> None:
        """Start a window with step `first`."""
        if self.turns is not None:
            self.turns.take()
        self.first = first
        self.inner_graphs = 0
        # The second steady window: by then whatever is still being warmed up is warm.
        if self.spec.profile is not None and first == COMPILING_STEPS + self.spec.window:
            self.runtime.start_profile(self.spec.profile)
            self.profiling = True
        self.runtime.wait()  # what was executed before is counted before
        self.start = (time.perf_counter(), time.process_time(), self.runtime.counters())

    def close(self, last: int) -> None:
        """End the window with step `last`, and write it."""
        self.runtime.wait()
        now, cpu, counters = time.perf_counter(), time.process_time(), self.runtime.counters()
        if self.turns is not None:
            self.turns.give()
        if self.start is None:
            return
        start, start_cpu, before = self.start
        fallbacks = {
            name: count - before["fallbacks"].get(name, 0)
            for name, count in counters["fallbacks"].items()
        }
        window = {
            "first": self.first,
            "last": last,
            "seconds": now - start,
            "cpu_seconds": cpu - start_cpu,
            "fallbacks": {name: count for name, count in fallbacks.items() if count},
            "inner_graphs": self.inner_graphs,
            "profiled": self.profiling,
        }
        for counter in ("compilations", "compile_seconds", "executions", "transfers"):
            window[counter] = counters[counter] - before[counter]
        self.writer.event("window", window=window)
        self.start = None
        self._end_profile()

    def _end_profile(self) -> None:
        if self.profiling:
            self.profiling = False
            self.runtime.stop_profile()

    def end(self) -> None:
        """No more windows."""
        self._end_profile()
        if self.turns is not None:
            self.turns.end()
