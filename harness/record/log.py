"""Reads a trainer's log in bounded memory: it may have one line of a gigabyte."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from pathlib import Path

LONGEST_LINE = 1 << 16
"""Bytes that are read of one line."""

MOST_HELD = 1 << 24
"""Characters of a log that are held at a time: those of its last lines."""


def lines(path: Path) -> Iterator[str]:
    """The lines of a log, without their ends; a long one is cut."""
    with path.open("rb") as stream:
        while line := stream.readline(LONGEST_LINE):
            yield line.decode(errors="replace").rstrip("\r\n")
            while line and not line.endswith(b"\n"):
                line = stream.readline(LONGEST_LINE)


def last_lines(path: Path, most: int = MOST_HELD) -> list[str]:
    """The last lines of a log, of at most so many characters; none where there is no log."""
    kept: deque[str] = deque()
    size = 0
    for line in lines(path) if path.is_file() else ():
        kept.append(line)
        size += len(line) + 1
        while size > most:
            size -= len(kept.popleft()) + 1
    return list(kept)
