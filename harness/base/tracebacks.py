"""The root of a Python traceback, out of what a process has printed."""

from __future__ import annotations

import re
from collections.abc import Sequence

_FRAME = re.compile(r'^\s*File "(?P<file>[^"]+)", line (?P<line>\d+)(, in (?P<function>\S+))?')
"""A frame of a traceback; where a file cannot be parsed, its last one names no function."""
_ERROR = re.compile(r"^(?P<error>(?:\w+\.)*[A-Za-z_]\w*(?:: .*)?)$")
_START = "Traceback (most recent call last):"
_CHAIN = (
    "The above exception was the direct cause of the following exception:",
    "During handling of the above exception, another exception occurred:",
)
_LIBRARIES = re.compile(r".*/(?:site-packages|dist-packages|overlays/[^/]+|checkouts/[^/]+)/")


_IMPORTING = re.compile(r"<frozen |.*/harness/probe/phases\.py$")
"""Files of Python's import and of what the probe wraps it in, which pass on what is raised."""


def root_of(log: Sequence[str]) -> str | None:
    """The first exception of the last chain in a log, with the deepest frame of its traceback.

    Python prints a chain from its root on: what was raised last says least.
    """
    starts = [i for i, line in enumerate(log) if line.strip() == _START]
    if not starts:
        return None
    start = starts[-1]
    for earlier in reversed(starts[:-1]):
        if not any(line.strip() in _CHAIN for line in log[earlier:start]):
            break
        start = earlier
    frame, error = None, None
    for line in log[start + 1 :]:
        if match := _FRAME.match(line):
            frame = frame if frame and _IMPORTING.match(match["file"]) else match
        elif line and not line[0].isspace() and _ERROR.match(line):
            error = line.strip()[:500]
            break
    if error is None:
        return None
    if frame is None:
        return error
    file = _LIBRARIES.sub("", frame["file"])
    function = "" if frame["function"] is None else f" in {frame['function']}"
    return f"{error} ({file}:{frame['line']}{function})"
