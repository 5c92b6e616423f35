"""Marks every process of a run, so that all of them are found and ended, whatever they have become.

A child may lead a session of its own, be orphaned, or ignore SIGTERM: what it was given as its
environment stays in /proc/PID/environ. A reaper, a process beside this one, ends what is left when
this one is gone, also after SIGKILL. Standard library: trainers use it too, and this file is run
as a script.

What a child is given an empty environment for is not found.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator

RUN_VARIABLE = "PARITY_RUN"
"""The variable that is a process's mark."""

KILL_TIMEOUT = 5.0
"""Seconds in which processes that were sent SIGKILL have to be gone."""

PR_SET_PDEATHSIG = 1


def die_with_parent() -> None:
    """Have the kernel end this process when the thread that started it ends, however it does."""
    parent = os.getppid()
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)  # it ended before that call


def marked(mark: str) -> Iterator[int]:
    """Descriptors of all other processes whose mark begins with `mark`. The caller closes them.

    A descriptor, unlike a number, never comes to mean another process.
    """
    wanted = f"{RUN_VARIABLE}={mark}".encode()
    for name in os.listdir("/proc"):
        if not name.isdigit() or int(name) == os.getpid():
            continue
        with contextlib.suppress(OSError):  # it has ended by now, or is another user's
            descriptor = os.pidfd_open(int(name))
            if any(one.startswith(wanted) for one in _environment(name)):
                yield descriptor
            else:
                os.close(descriptor)


def _environment(pid: str) -> list[bytes]:
    with contextlib.suppress(OSError), open(f"/proc/{pid}/environ", "rb") as stream:
        return stream.read().split(b"\0")
    return []


def end_marked(mark: str, patience: float = KILL_TIMEOUT) -> bool:
    """SIGKILL what is marked, until nothing is. Returns whether that was within `patience`."""
    deadline = time.monotonic() + patience
    while True:
        found = 0
        for descriptor in marked(mark):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                signal.pidfd_send_signal(descriptor, signal.SIGKILL)
                found += 1
            os.close(descriptor)
        if not found:
            return True
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)


class Reaper:
    """Gives out marks, and ends what has one of them as soon as this process is gone."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.session = ""
        self.owner = 0

    def mark(self) -> str:
        """A new mark. All are of one length."""
        with self.lock:
            if self.owner != os.getpid():  # a fork is a process of its own
                self._start()
        return f"{self.session}.{uuid.uuid4().hex[:12]}"

    def _start(self) -> None:
        self.session, self.owner = uuid.uuid4().hex, os.getpid()
        # Nothing is ever written: it ends when this process does, as does no copy of it.
        theirs, self.alive = os.pipe()
        with contextlib.closing(os.fdopen(theirs, "rb")):
            self.process = subprocess.Popen(
                [sys.executable, "-I", "-S", __file__, self.session],
                stdin=theirs,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )


REAPER = Reaper()

if __name__ == "__main__":
    os.read(0, 1)
    end_marked(sys.argv[1])
