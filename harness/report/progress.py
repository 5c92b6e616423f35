"""Shows what a session is doing: which run, which step, the loss, and when it will be done."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from harness.record.reader import BatchEvent, Event, ValuesEvent
from harness.record.termination import OK, Termination


class ConsoleReporter:
    """A live line for each run on a terminal; plain lines where the output is no terminal."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._progress: Progress | None = None
        self._task: Any = None
        self._steps, self._seen, self._first = 0, 0, 0.0

    def note(self, text: str) -> None:
        """A line about what is being done or waited for."""
        self.console.print(f"  {text}", style="dim", highlight=False, markup=False)

    def started(self, label: str, steps: int) -> None:
        """A run was launched."""
        self._steps, self._seen = steps, 0
        if not self.console.is_terminal:
            self.note(f"{label}: starting")
            return
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[state]}", markup=False),
            TimeElapsedColumn(),
            console=self.console,
            transient=True,
        )
        self._task = self._progress.add_task(label, total=steps, state="importing")
        self._progress.start()

    def event(self, label: str, event: Event) -> None:
        """The probe wrote an event."""
        if isinstance(event, BatchEvent) and self._seen == 0:
            self._update(0, "compiling step 0")
        elif isinstance(event, ValuesEvent):
            self._seen = event.step + 1
            if self._seen == 1:
                self._first = time.monotonic()
            loss = sum(event.losses)
            self._update(
                self._seen, f"step {self._seen}/{self._steps}  loss {loss:.4f}{self._eta()}"
            )

    def _eta(self) -> str:
        """Time left, once a steady step was seen."""
        if self._seen < 4 or self._seen >= self._steps:
            return ""
        pace = (time.monotonic() - self._first) / (self._seen - 1)
        return f"  {pace * (self._steps - self._seen):.0f} s left"

    def _update(self, completed: int, state: str) -> None:
        if self._progress is not None:
            self._progress.update(self._task, completed=completed, state=state)

    def ended(self, label: str, ended: Termination) -> None:
        """A run ended."""
        self.close()
        done = "trained" if ended.status == OK else f"{ended.status}: {ended.reason}"
        self.note(f"{label}: {done} ({self._seen} steps, {ended.seconds:.0f} s)")

    def reused(self, label: str, directory: Path) -> None:
        """A complete Record of this very run was there already."""
        self.note(f"{label}: unchanged, from {directory}")

    def close(self) -> None:
        """Take the live line away."""
        if self._progress is not None:
            self._progress.stop()
            self._progress = None
