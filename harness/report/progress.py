"""Shows what a session is doing: which run of how many, which step, the loss, and the time left."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)

from harness.base.text import printable
from harness.record.reader import BatchEvent, Event, ValuesEvent
from harness.record.termination import OK, Termination

EVERY = 30.0
"""Seconds between two lines of a run where there is no terminal, as in the log of a CI job."""

FIRST_PACED = 4
"""Steps after which the pace is known: the first two compile."""


@dataclass
class Pace:
    """How far one run is.

    number: which run of the session it is, from 1
    steps:  optimizer steps that it takes
    state:  what it is doing, as it is shown
    """

    number: int
    steps: int
    began: float
    state: str = "importing"
    seen: int = 0
    first: float = 0.0
    last: float = 0.0

    def step(self, number: int, now: float) -> None:
        """So many steps of the run are done."""
        if number == 1:
            self.first = now
        self.seen, self.last = number, now

    @property
    def whole(self) -> float | None:
        """Seconds that the run takes by its pace; None while that is not known."""
        if self.seen < FIRST_PACED:
            return None
        pace = (self.last - self.first) / (self.seen - 1)
        return self.first - self.began + pace * (self.steps - 1)


@dataclass
class Forecast:
    """How much of a session is done, and when the rest will be.

    expected: runs that were announced; a session may find that it needs more
    alive:    the runs that are going on, by their labels
    took:     seconds of those that have ended
    """

    expected: int = 0
    launched: int = 0
    alive: dict[str, Pace] = field(default_factory=dict)
    took: list[float] = field(default_factory=list)

    def start(self, label: str, steps: int, now: float) -> Pace:
        """A run of so many steps was launched."""
        self.launched += 1
        self.alive[label] = Pace(self.launched, steps, now)
        return self.alive[label]

    def end(self, label: str, now: float) -> Pace:
        """The run ended."""
        run = self.alive.pop(label)
        self.took.append(now - run.began)
        return run

    def skip(self) -> None:
        """A run that was expected need not be launched."""
        self.expected = max(0, self.expected - 1)

    def numbered(self, run: Pace) -> str:
        """Which run of how many this is; nothing where it is the only one."""
        if run.number > self.expected:
            return f"run {run.number}" if run.number > 1 else ""
        return f"run {run.number} of {self.expected}" if self.expected > 1 else ""

    def left(self, now: float) -> float | None:
        """Seconds until the last run is done; None while nothing tells.

        Later runs are taken to be as long as those before, or as these by their pace, and to be
        launched as many at once as are going on now.
        """
        wholes = [run.whole for run in self.alive.values()]
        known = [whole for whole in wholes if whole is not None]
        of_one = self.took or known
        if not of_one:
            return None
        usual = sum(of_one) / len(of_one)
        ends = [
            max(0.0, run.began + (usual if whole is None else whole) - now)
            for run, whole in zip(self.alive.values(), wholes, strict=True)
        ]
        later = max(0, self.expected - self.launched) / max(1, len(self.alive))
        return max(ends, default=0.0) + math.ceil(later) * usual


class ConsoleReporter:
    """A live line for each run on a terminal; elsewhere a line for each, and one every so often.

    Runs that go on at the same time are told apart by their labels, and tell of themselves from
    threads of their own.

    every: seconds between two lines of one run, where there is no terminal
    clock: seconds from anywhere on
    """

    def __init__(
        self, console: Console, every: float = EVERY, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.console = console
        self._every, self._clock = every, clock
        self._forecast = Forecast()
        self._telling = threading.RLock()
        self._progress: Progress | None = None
        self._tasks: dict[str, TaskID] = {}
        self._stopped = threading.Event()
        self._teller: threading.Thread | None = None

    def expects(self, runs: int) -> None:
        """So many more runs are coming, as far as is known now."""
        self._forecast.expected += runs

    def note(self, text: str) -> None:
        """A line about what is being done or waited for."""
        self.console.print(
            f"  {printable(text)}", style="dim", highlight=False, markup=False, soft_wrap=True
        )

    def started(self, label: str, steps: int) -> None:
        """A run was launched."""
        with self._telling:
            run = self._forecast.start(label, steps, self._clock())
            if not self.console.is_terminal:
                self.note(self._line(label, run, "starting"))
                self._tell_now_and_then()
                return
            if self._progress is None:
                self._progress = Progress(
                    SpinnerColumn(),
                    TextColumn("{task.description}", markup=False),
                    BarColumn(bar_width=16),
                    TextColumn("{task.fields[state]}", markup=False),
                    TimeElapsedColumn(),
                    console=self.console,
                    transient=True,
                )
                self._progress.start()
            self._tasks[label] = self._progress.add_task(label, total=steps, state=self._shown(run))

    def event(self, label: str, event: Event) -> None:
        """The probe wrote an event."""
        with self._telling:
            run = self._forecast.alive[label]
            if isinstance(event, BatchEvent) and run.seen == 0:
                run.state = "compiling step 0"
            elif isinstance(event, ValuesEvent):
                run.step(event.step + 1, self._clock())
                run.state = f"step {run.seen} of {run.steps}, loss {sum(event.losses):.4f}"
            if self._progress is not None:
                self._progress.update(
                    self._tasks[label], completed=run.seen, state=self._shown(run)
                )

    def ended(self, label: str, ended: Termination) -> None:
        """A run ended."""
        with self._telling:
            run = self._forecast.end(label, self._clock())
            if self._progress is not None:
                self._progress.remove_task(self._tasks.pop(label))
            last = not self._forecast.alive
        if last:
            self._stop()
        done = "trained" if ended.status == OK else f"{ended.status}: {ended.reason}"
        self.note(f"{label}: {done} ({run.seen} steps, {ended.seconds:.0f} s)")

    def reused(self, label: str, directory: Path) -> None:
        """A complete Record of this very run was there already."""
        self._forecast.skip()
        self.note(f"{label}: unchanged, from {directory}")

    def close(self) -> None:
        """Take the live line away."""
        self._stop()

    def _stop(self) -> None:
        with self._telling:
            progress, teller, stopped = self._progress, self._teller, self._stopped
            self._progress = self._teller = None
            self._tasks.clear()
        if progress is not None:
            progress.stop()
        if teller is not None:
            stopped.set()
            teller.join()

    def _tell_now_and_then(self) -> None:
        """Say how far the runs are, also while they compile and no event comes."""
        if self._teller is not None:
            return
        self._stopped = threading.Event()

        def tell(stopped: threading.Event) -> None:
            while not stopped.wait(self._every):
                with self._telling:
                    lines = [
                        self._line(label, run, self._shown(run, number=False))
                        for label, run in self._forecast.alive.items()
                    ]
                for line in lines:
                    self.note(line)

        self._teller = threading.Thread(target=tell, args=(self._stopped,), daemon=True)
        self._teller.start()

    def _line(self, label: str, run: Pace, state: str) -> str:
        number = self._forecast.numbered(run)
        return f"{label} ({number}): {state}" if number else f"{label}: {state}"

    def _shown(self, run: Pace, number: bool = True) -> str:
        left = self._forecast.left(self._clock())
        parts = [self._forecast.numbered(run) if number else "", run.state]
        parts.append("" if left is None else f"{duration(left)} left")
        return ", ".join(filter(None, parts))


def duration(seconds: float) -> str:
    """Seconds as a person says them.

    >>> duration(48.2), duration(400), duration(7300)
    ('48 s', '7 min', '2.0 h')
    """
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
