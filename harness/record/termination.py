"""How a run ended, and why, from its exit code and its log."""

from __future__ import annotations

import re
import signal
from dataclasses import dataclass
from pathlib import Path

from harness.base.text import printable
from harness.base.typed import STRICT, Finite
from harness.record.log import last_lines

TAIL_LINES = 30
"""Last lines of a log that are kept in the manifest, and shown."""
TAIL_CHARACTERS = 200_000
"""Last characters of a log that are searched for signs of what ended a run."""
LINE = 2000
"""Characters that are kept of one line."""

OK = "ok"
FAILED = "failed"
KILLED = "killed"
TIMED_OUT = "timed out"
OUT_OF_MEMORY = "out of memory"
STARVED = "collectives starved"
STOPPED_EARLY = "stopped early"
BUSY = "device busy"
GONE = "device lost"

OF_MACHINE = (STARVED, BUSY, GONE)
"""Statuses that are the machine's doing, and say nothing of the trainer."""

_ERROR = re.compile(r"^(?:\w+\.)*\w*(?:Error|Exception|Exit|Interrupt)\b.*")


@dataclass(frozen=True)
class Sign:
    """What a log shows where the machine failed, and not the trainer.

    patterns: all of them are in its tail
    status:   the status that they tell, one of `OF_MACHINE`
    reason:   one line
    """

    patterns: tuple[re.Pattern[str], ...]
    status: str
    reason: str


@dataclass(frozen=True)
class Termination:
    """How a run ended.

    status:  "ok", "failed", "killed", "timed out", "out of memory", "collectives starved",
             "stopped early", "device busy" or "device lost"
    reason:  one line
    code:    exit code; negative for a signal
    seconds: wall clock from start to end
    log:     last lines of the log, where it did not end well
    """

    __pydantic_config__ = STRICT

    status: str
    reason: str
    code: int | None
    seconds: Finite
    log: tuple[str, ...] = ()


def explain(
    code: int, log: Path, given_up: str | None, seconds: float, signs: tuple[Sign, ...] = ()
) -> Termination:
    """The Termination of a process that exited with `code`, or was ended because of `given_up`.

    `signs` are those of the device that it ran on.
    """
    tail = _tail(log)
    text = "\n".join(tail)
    if given_up is not None:
        return Termination(TIMED_OUT, given_up, code, seconds, tail[-TAIL_LINES:])
    if code == 0:
        return Termination(OK, "it ended by itself", code, seconds)
    for sign in signs:
        if all(pattern.search(text) for pattern in sign.patterns):
            return Termination(sign.status, sign.reason, code, seconds, tail[-TAIL_LINES:])
    if "RESOURCE_EXHAUSTED" in text or "MemoryError" in text or "Out of memory" in text:
        return Termination(OUT_OF_MEMORY, "it ran out of memory", code, seconds, tail[-TAIL_LINES:])
    if code < 0:
        known = {number.value: number.name for number in signal.Signals}
        name = known.get(-code, f"signal {-code}")
        if code == -signal.SIGKILL:
            reason = "it was killed (SIGKILL), by hand or because the machine ran out of memory"
            return Termination(KILLED, reason, code, seconds, tail[-TAIL_LINES:])
        return Termination(KILLED, f"it was ended by {name}", code, seconds, tail[-TAIL_LINES:])
    errors = [line.strip() for line in tail if _ERROR.match(line.strip())]
    last_line = (
        f": {tail[-1].strip()}" if tail else ""
    )  # such as the text of raise SystemExit(text)
    reason = errors[-1] if errors else f"it exited with {code}{last_line}"
    return Termination(FAILED, reason[:500], code, seconds, tail[-TAIL_LINES:])


def _tail(log: Path) -> tuple[str, ...]:
    """The last lines of a log, without blank ones, as a terminal may be shown them."""
    text = printable("\n".join(last_lines(log, TAIL_CHARACTERS)))
    return tuple(line[:LINE] for line in text.splitlines() if line.strip())
