"""Runs a command on this machine, in a process group of its own, and says how it ended."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Protocol

from harness.base.processes import REAPER, RUN_VARIABLE, end_marked
from harness.devices.device import device
from harness.launchers.invocation import Invocation
from harness.record import layout
from harness.record.reader import Event
from harness.record.tail import EventTail
from harness.record.termination import (
    BUSY,
    FAILED,
    KILLED,
    OUT_OF_MEMORY,
    Sign,
    Termination,
    explain,
)

GRACE = 5.0
"""Seconds between asking a process group to end and ending it."""

POLL = 0.1
"""Seconds between two looks at a trainer."""

INHERITED = ("XLA_", "PJRT_", "LIBTPU_", "TPU_", "MEGASCALE_", "ACCELERATE_")
"""Variables of the harness's own environment that change what a run does: they are part of it."""

MACHINE_VARIABLES = ("TPU_", "MEGASCALE_")
"""Those of them that tell a process what TPUs its machine has."""

PER_HOST = (
    "TPU_WORKER_ID", "TPU_WORKER_HOSTNAMES", "TPU_PROCESS_ADDRESSES", "TPU_PROCESS_PORT",
    "TPU_VISIBLE_CHIPS", "TPU_VISIBLE_DEVICES",
)  # fmt: skip
"""Variables that tell hosts, or workloads, apart, and change nothing that is computed."""

OF_HOST = (*PER_HOST, "TPU_NAME", "MEGASCALE_SLICE_ID", "MEGASCALE_COORDINATOR_ADDRESS")
"""Those that only tell hosts apart. A process gets them from its machine, as any other, but they
are no part of a run: on every host of a slice it is the same one, of the same key."""


@dataclass(frozen=True)
class Limits:
    """When a run is given up, and what tells that its device failed, and not the trainer.

    time_limit: seconds in all
    silence:    seconds without any sign of life
    signs:      of the device
    busy:       who else has the device once a run has ended; None where nobody has
    """

    time_limit: float
    silence: float
    signs: tuple[Sign, ...] = ()
    busy: Callable[[], str | None] = lambda: None


def device_environment(name: str, devices: int, fast_compile: bool) -> dict[str, str]:
    """Variables of a run on `devices` of the device `name`: what it inherits, and what it needs."""
    names = sorted(k for k in os.environ if k.startswith(INHERITED) and k not in OF_HOST)
    inherited = {name: os.environ[name] for name in names}
    return inherited | device(name).environment(devices, fast_compile, inherited)


class Process(Protocol):
    """A process that was started, as `subprocess.Popen` has it; it leads a process group."""

    pid: int
    returncode: int | Any

    def poll(self) -> int | None:
        """Its exit code, negative for a signal; None while it runs."""

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end. Raises `subprocess.TimeoutExpired`."""


Start = Callable[[Invocation, IO[bytes]], Process]
"""Starts an Invocation with an output that goes into an open file."""


def launch_interpreter(invocation: Invocation, stream: IO[bytes]) -> Process:
    """A process that reads nothing from us, in a session of its own."""
    return subprocess.Popen(
        invocation.argv,
        cwd=invocation.cwd,
        env={**os.environ, **invocation.environment},
        stdin=subprocess.DEVNULL,
        stdout=stream,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )


def launch(
    invocation: Invocation,
    directory: Path,
    limits: Limits,
    on_event: Callable[[Event], None],
    stop: threading.Event | None = None,
    start: Start | None = None,
) -> Termination:
    """Run `invocation`, its output into `directory`/trainer.log, and wait for it.

    `start` makes its process, in another way than by launching an interpreter for it.

    `on_event` is called with every event that the probe writes. Whatever happens, including
    Ctrl-C here, no process of the run is left behind; `harness.base.processes` says how. Another
    thread may end it by `stop`.
    """
    log = directory / layout.LOG
    tail = EventTail(directory / layout.STEPS)
    mark = REAPER.mark()
    invocation = dataclasses.replace(
        invocation, environment={**invocation.environment, RUN_VARIABLE: mark}
    )
    started = time.monotonic()
    reason = None
    with log.open("wb") as stream:
        process = (start or launch_interpreter)(invocation, stream)
        try:
            alive, size = time.monotonic(), -1
            while process.poll() is None:
                for event in tail.read():
                    on_event(event)
                now, grown = time.monotonic(), log.stat().st_size + tail.position
                if grown != size:
                    alive, size = now, grown
                if now - started > limits.time_limit:
                    reason = f"it ran for longer than its limit of {limits.time_limit:.0f} s"
                elif now - alive > limits.silence:
                    reason = f"it showed no sign of life for {limits.silence:.0f} s"
                elif stop is not None and stop.is_set():
                    reason = "the run beside it was ended"
                if reason is not None:
                    break
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(POLL)
        finally:
            _end(process, mark)
    for event in tail.read():
        on_event(event)
    seconds = time.monotonic() - started
    return blamed(explain(process.returncode, log, reason, seconds, limits.signs), limits)


def blamed(ended: Termination, limits: Limits) -> Termination:
    """`ended` as busy, where a run failed while another process had the device."""
    if ended.status not in (FAILED, OUT_OF_MEMORY, KILLED):
        return ended
    reason = limits.busy()
    return ended if reason is None else dataclasses.replace(ended, status=BUSY, reason=reason)


def _end(process: Process, mark: str) -> None:
    """End the process and all that it started, and wait until it is gone.

    It is asked first, and ended where it has not gone after GRACE, or where whoever waits for it
    is in more of a hurry: by a second Ctrl-C.
    """
    try:
        _signal_group(process, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(GRACE)
    finally:
        # Its children may be ignoring the signal, or lead sessions of their own.
        _signal_group(process, signal.SIGKILL)
        end_marked(mark)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(GRACE)


def _signal_group(process: Process, number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, number)
