"""Lets two trainers on one machine run in turns, one timing window each: A B B A A B B A …

Neighbouring windows see the same machine, so that its drift cancels in their ratio, and only one
trainer works at a time. The two processes share a folder: the file `turn` counts the windows that
were run; `done-0` and `done-1` say that a side has ended.
"""

from __future__ import annotations

import time
from pathlib import Path

from harness.base.files import write_text

ORDER = (0, 1, 1, 0)
"""Which side runs window i, over and over."""

POLL = 0.01
"""Seconds between two looks at whose turn it is. What is waited for is never timed, but whoever
looks more often takes processor time from the other side's window."""


class Turns:
    """One side's end of the shared folder.

    side: 0 or 1
    """

    def __init__(self, folder: Path, side: int) -> None:
        self.folder, self.side = folder, side
        self.holding = False

    def take(self) -> None:
        """Wait until it is this side's turn."""
        while not self.holding:
            other_done = (self.folder / f"done-{1 - self.side}").exists()
            self.holding = other_done or ORDER[self._count() % len(ORDER)] == self.side
            if not self.holding:
                time.sleep(POLL)

    def give(self) -> None:
        """This side's window is over."""
        if self.holding:
            self.holding = False
            write_text(self.folder / "turn", str(self._count() + 1))

    def end(self) -> None:
        """This side runs no more windows; the other one need not wait for it."""
        (self.folder / f"done-{self.side}").touch()
        self.give()

    def _count(self) -> int:
        try:
            return int((self.folder / "turn").read_text())
        except FileNotFoundError:
            return 0
