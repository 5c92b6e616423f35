"""Follows a Record's event log while it is being written."""

from __future__ import annotations

from pathlib import Path

from harness.record.reader import Event, parse_event


class EventTail:
    """The events that were appended to a steps.jsonl since the last look."""

    def __init__(self, path: Path) -> None:
        self.path, self.position = path, 0

    def read(self) -> list[Event]:
        """New whole events; a half-written last line is left for the next look.

        Raises:
            BadInput: a whole line is no event.
        """
        if not self.path.is_file():
            return []
        with self.path.open("rb") as stream:
            stream.seek(self.position)
            data = stream.read()
        whole = data[: data.rfind(b"\n") + 1]
        self.position += len(whole)
        return [parse_event(line) for line in whole.splitlines() if line]
