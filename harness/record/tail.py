"""Follows a Record's event log while it is being written."""

from __future__ import annotations

from pathlib import Path

from harness.record.reader import LONGEST_EVENT, Event, check_length, parse_event


class EventTail:
    """The events that were appended to a steps.jsonl since the last look.

    It holds one line at a time, which has an end somewhere or is no event.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.position = path, 0

    def read(self) -> list[Event]:
        """New whole events; a half-written last line is left for the next look.

        Raises:
            BadInput: a whole line is no event, or a line is longer than any.
        """
        if not self.path.is_file():
            return []
        events = []
        with self.path.open("rb") as stream:
            stream.seek(self.position)
            while (line := stream.readline(LONGEST_EVENT)).endswith(b"\n"):
                self.position += len(line)
                if line.strip():
                    events.append(parse_event(line))
            check_length(self.path, line)
        return events
