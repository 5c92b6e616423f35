"""Shows what a session is doing: which run of how many, which step, the loss, and the time left."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from harness.base.text import printable
from harness.record.reader import BatchEvent, Event, ValuesEvent
from harness.record.termination import OK, Termination

EVERY = 30.0
"""Seconds between two lines of a run where there is no terminal, as in the log of a CI job."""

FIRST_PACED = 4
"""Steps after which the pace is known: the first two compile."""


@dataclass
class Forecast:
    """How much of a session is done, and when the rest will be.

    expected: runs that were announced; a session may find that it needs more
    steps:    optimizer steps of the run that is going on
    """

    expected: int = 0
    launched: int = 0
    steps: int = 0
    seen: int = 0
    began: float = 0.0
    first: float = 0.0
    last: float = 0.0
    took: list[float] = field(default_factory=list)

    def start(self, steps: int, now: float) -> None:
        """A run of so many steps was launched."""
        self.launched += 1
        self.steps, self.seen, self.began = steps, 0, now

    def step(self, number: int, now: float) -> None:
        """So many steps of the run are done."""
        if number == 1:
            self.first = now
        self.seen, self.last = number, now

    def end(self, now: float) -> None:
        """The run ended."""
        self.took.append(now - self.began)

    def skip(self) -> None:
        """A run that was expected need not be launched."""
        self.expected = max(0, self.expected - 1)

    @property
    def run(self) -> str:
        """Which run of how many this is; nothing where it is the only one."""
        if self.launched > self.expected:
            return f"run {self.launched}" if self.launched > 1 else ""
        return f"run {self.launched} of {self.expected}" if self.expected > 1 else ""

    def left(self, now: float) -> float | None:
        """Seconds until the last run is done; None while nothing tells.

        Later runs are taken to be as long as those before, or as this one by its pace.
        """
        later = max(0, self.expected - self.launched)
        whole = None
        if self.seen >= FIRST_PACED:
            pace = (self.last - self.first) / (self.seen - 1)
            whole = self.first - self.began + pace * (self.steps - 1)
        usual = sum(self.took) / len(self.took) if self.took else whole
        this = whole if whole is not None else usual
        if this is None or usual is None:
            return None
        return max(0.0, self.began + this - now) + later * usual


class ConsoleReporter:
    """A live line for each run on a terminal; elsewhere a line for each, and one every so often.

    every: seconds between two lines of one run, where there is no terminal
    clock: seconds from anywhere on
    """

    def __init__(
        self, console: Console, every: float = EVERY, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.console = console
        self._every, self._clock = every, clock
        self._forecast = Forecast()
        self._label, self._state = "", ""
        self._progress: Progress | None = None
        self._task: Any = None
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
        self._forecast.start(steps, self._clock())
        self._label, self._state = label, "importing"
        if not self.console.is_terminal:
            self.note(self._line("starting"))
            self._tell_now_and_then()
            return
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=16),
            TextColumn("{task.fields[state]}", markup=False),
            TimeElapsedColumn(),
            console=self.console,
            transient=True,
        )
        self._task = self._progress.add_task(label, total=steps, state=self._shown())
        self._progress.start()

    def event(self, label: str, event: Event) -> None:
        """The probe wrote an event."""
        forecast = self._forecast
        if isinstance(event, BatchEvent) and forecast.seen == 0:
            self._state = "compiling step 0"
        elif isinstance(event, ValuesEvent):
            forecast.step(event.step + 1, self._clock())
            loss = sum(event.losses)
            self._state = f"step {forecast.seen} of {forecast.steps}, loss {loss:.4f}"
        if self._progress is not None:
            self._progress.update(self._task, completed=forecast.seen, state=self._shown())

    def ended(self, label: str, ended: Termination) -> None:
        """A run ended."""
        self._stop()
        self._forecast.end(self._clock())
        done = "trained" if ended.status == OK else f"{ended.status}: {ended.reason}"
        self.note(f"{label}: {done} ({self._forecast.seen} steps, {ended.seconds:.0f} s)")

    def reused(self, label: str, directory: Path) -> None:
        """A complete Record of this very run was there already."""
        self._forecast.skip()
        self.note(f"{label}: unchanged, from {directory}")

    def close(self) -> None:
        """Take the live line away."""
        self._stop()

    def _stop(self) -> None:
        if self._progress is not None:
            self._progress.stop()
            self._progress = None
        if self._teller is not None:
            self._stopped.set()
            self._teller.join()
            self._teller = None

    def _tell_now_and_then(self) -> None:
        """Say how far the run is, also while it compiles and no event comes."""
        self._stopped = threading.Event()

        def tell(stopped: threading.Event) -> None:
            while not stopped.wait(self._every):
                self.note(self._line(self._shown(run=False)))

        self._teller = threading.Thread(target=tell, args=(self._stopped,), daemon=True)
        self._teller.start()

    def _line(self, state: str) -> str:
        run = f" ({self._forecast.run})" if self._forecast.run else ""
        return f"{self._label}{run}: {state}"

    def _shown(self, run: bool = True) -> str:
        left = self._forecast.left(self._clock())
        parts = [self._forecast.run if run else "", self._state]
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
