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


def marked(mark: str) -> tuple[list[int], set[str]]:
    """Looks through /proc once.

    Returns descriptors of all other processes whose mark begins with `mark`, which the caller
    closes (a descriptor, unlike a number, never comes to mean another process), and the numbers of
    those of which nothing could be read: it ended after it was listed, or is another user's.
    """
    wanted = f"{RUN_VARIABLE}={mark}".encode()
    found: list[int] = []
    unread: set[str] = set()
    for name in os.listdir("/proc"):
        if not name.isdigit() or int(name) == os.getpid():
            continue
        descriptor, environment = _opened(name)
        if any(one.startswith(wanted) for one in environment):
            found.append(descriptor)
            continue
        if not any(environment):
            unread.add(name)
        if descriptor >= 0:
            os.close(descriptor)
    return found, unread


def _opened(pid: str) -> tuple[int, list[bytes]]:
    """A descriptor of a process, -1 if it is gone, and its environment as far as it is readable."""
    try:
        descriptor = os.pidfd_open(int(pid))
    except OSError:
        return -1, []
    with contextlib.suppress(OSError), open(f"/proc/{pid}/environ", "rb") as stream:
        return descriptor, stream.read().split(b"\0")
    return descriptor, []


def end_marked(mark: str, patience: float = KILL_TIMEOUT) -> bool:
    """SIGKILL what is marked, until nothing is. Returns whether that was within `patience`.

    That nothing was found is no proof: what was listed may have started another, and ended, before
    it was read. Nothing is left where in one look everything was read that could be read in the
    look before: only what is marked starts what is marked.
    """
    deadline = time.monotonic() + patience
    before: set[str] = set()
    while True:
        descriptors, unread = marked(mark)
        found = 0
        for descriptor in descriptors:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                signal.pidfd_send_signal(descriptor, signal.SIGKILL)
                found += 1
            os.close(descriptor)
        if not found and unread <= before:
            return True
        if time.monotonic() > deadline:
            return not found
        before = unread
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
