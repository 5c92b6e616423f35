"""What a session tells of its runs while they are going on."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from harness.record import reader, termination


class Reporter(Protocol):
    """Shows a person what is going on."""

    def note(self, text: str) -> None:
        """A line about what is being done or waited for."""

    def expects(self, runs: int) -> None:
        """So many more runs are coming, as far as is known now; some may be there already."""

    def started(self, label: str, steps: int) -> None:
        """A run was launched."""

    def event(self, label: str, event: reader.Event) -> None:
        """The probe wrote an event."""

    def ended(self, label: str, ended: termination.Termination) -> None:
        """A run ended."""

    def reused(self, label: str, directory: Path) -> None:
        """A complete Record of this very run was there already."""
