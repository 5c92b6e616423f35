"""Waits for a workload on a cluster, and shows what it does meanwhile."""

from __future__ import annotations

import contextlib
import os
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from subprocess import Popen, TimeoutExpired
from typing import IO

from harness.base.errors import BadInput
from harness.base.progress import Progress
from harness.launchers import cluster
from harness.launchers.artifacts import Artifacts
from harness.launchers.cluster import Cluster, State
from harness.launchers.launcher import OnEvent
from harness.launchers.local import Limits
from harness.record import layout
from harness.record.tail import EventTail

POLL = 10.0
"""Seconds between two looks at the cluster."""

FIRST_HOST = "host-0"

FINAL_STATES = (cluster.SUCCEEDED, cluster.FAILED, cluster.STUCK)


@dataclass
class Patience:
    """When a workload is given up: see `harness.launchers.local.Limits`, and `wait`.

    submitted:   when it was submitted, as every time here a number of seconds
    queue_limit: seconds that it may wait for its TPUs; its limits count from when it has them
    """

    limits: Limits
    queue_limit: float
    submitted: float
    began: float | None = None
    alive: float = 0.0
    size: int = -1

    def lost(self, now: float, running: bool, size: int) -> str | None:
        """Why to give it up now, if at all, when it has written `size` bytes by now."""
        if running and self.began is None:
            self.began = now
        if size != self.size or self.began is None:
            self.alive, self.size = now, size
        if self.began is None:
            if now - self.submitted > self.queue_limit:
                return f"it waited for its TPUs for {self.queue_limit:.0f} s"
            return None
        if now - self.began > self.limits.time_limit:
            return f"it ran for longer than its limit of {self.limits.time_limit:.0f} s"
        if now - self.alive > self.limits.silence:
            return f"it showed no sign of life for {self.limits.silence:.0f} s"
        return None


@dataclass
class LiveView:
    """Copies the log and the events of a workload's first host to this machine while it runs."""

    on: Cluster
    workload: str
    log: IO[bytes]
    artifacts: Artifacts
    tail: EventTail
    on_event: OnEvent
    follower: Popen[bytes] | None = None
    since: str | None = None

    def look(self) -> None:
        """Read what has come since the last look; follow the log again where that has broken."""
        if self.follower is None or self.follower.poll() is not None:
            self.follower = self.on.follow(self.workload, self.log, self.since)
        self.since = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        self.events()

    def events(self) -> None:
        """Hand on the events that have come."""
        with contextlib.suppress(BadInput):  # storage may be back; all is collected in the end
            self.artifacts.fetch_file(f"{FIRST_HOST}/{layout.STEPS}", self.tail.path)
        for event in self.tail.read():
            self.on_event(event)

    def close(self, seconds: float) -> None:
        """Let the last lines arrive for `seconds`, and end."""
        if self.follower is None:
            return
        try:
            self.follower.wait(seconds)
        except TimeoutExpired:
            self.follower.terminate()
            self.follower.wait()


def wait(
    on: Cluster,
    workload: str,
    directory: Path,
    patience: Patience,
    artifacts: Artifacts,
    on_event: OnEvent,
    progress: Progress,
    poll: float = POLL,
) -> State:
    """Wait until `workload` has ended, or is given up; its State then, with why.

    The first host's output goes into `directory`'s log as it comes, and its events to `on_event`.
    A cluster that does not answer is asked again, until the patience ends.
    """
    tail = EventTail(directory / FIRST_HOST / layout.STEPS)
    reason = ""
    with (directory / layout.LOG).open("ab", buffering=0) as log:
        sight = LiveView(on, workload, log, artifacts, tail, on_event)
        try:
            while True:
                state = on.state(workload)
                running = state is not None and state.name == cluster.RUNNING
                if state is not None and state.name in FINAL_STATES:
                    sight.close(poll)
                    sight.events()
                    return state
                if running:
                    sight.look()
                elif state is not None and state.reason != reason:
                    reason = state.reason
                    progress(f"{workload} is waiting: {reason}")
                size = os.fstat(log.fileno()).st_size + tail.position
                lost = patience.lost(time.monotonic(), running, size)
                if lost is not None:
                    name = cluster.QUEUED if patience.began is None else cluster.RUNNING
                    return State(name, f"{lost}: {reason}" if name == cluster.QUEUED else lost)
                time.sleep(poll)
        finally:
            sight.close(0)
