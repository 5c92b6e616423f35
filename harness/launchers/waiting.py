"""Waits for a workload on a cluster, and shows what it does meanwhile."""

from __future__ import annotations

import contextlib
import time
from datetime import UTC, datetime
from pathlib import Path
from subprocess import Popen

from harness import record
from harness.errors import BadInput
from harness.launchers import cluster
from harness.launchers.artifacts import Artifacts
from harness.launchers.cluster import Cluster, State
from harness.launchers.launcher import Note, OnEvent
from harness.launchers.local import Limits
from harness.launchers.watch import EventTail

POLL = 10.0
"""Seconds between two looks at the cluster."""

FIRST = "host-0"


def wait(
    on: Cluster,
    workload: str,
    log: Path,
    limits: Limits,
    queue_limit: float,
    artifacts: Artifacts,
    on_event: OnEvent,
    note: Note,
    poll: float = POLL,
) -> State:
    """Wait until `workload` has ended, or is given up; its State then, with why.

    The first host's output goes into `log` as it comes, its events to `on_event`. A run's limits
    count from when it has its TPUs; before that it may wait in the queue for `queue_limit`
    seconds. A cluster that does not answer for a while is asked again.
    """
    tail = EventTail(log.parent / FIRST / record.STEPS)
    told, submitted = "", time.monotonic()
    began: float | None = None
    alive, size = submitted, -1
    follower: Popen[bytes] | None = None
    since: str | None = None
    with log.open("ab", buffering=0) as stream:
        try:
            while True:
                state = on.state(workload)
                now = time.monotonic()
                if state is not None and state.name in (
                    cluster.SUCCEEDED, cluster.FAILED, cluster.STUCK,
                ):  # fmt: skip
                    if follower is not None and state.name != cluster.STUCK:
                        _drain(follower, poll)
                    return state
                if state is not None and state.name == cluster.QUEUED:
                    if state.reason != told:
                        told = state.reason
                        note(f"{workload} is waiting: {told}")
                    if began is None and now - submitted > queue_limit:
                        reason = f"it waited for its TPUs for {queue_limit:.0f} s: {state.reason}"
                        return State(cluster.QUEUED, reason)
                if state is not None and state.name == cluster.RUNNING:
                    began = now if began is None else began
                    if follower is None or follower.poll() is not None:
                        follower = on.follow(workload, stream, since)
                    since = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
                    with contextlib.suppress(BadInput):  # it is collected in the end as well
                        artifacts.fetch_file(f"{FIRST}/{record.STEPS}", tail.path)
                    for event in tail.read():
                        on_event(event)
                grown = log.stat().st_size + tail.position
                if grown != size or began is None:
                    alive, size = now, grown
                if began is not None and now - began > limits.time_limit:
                    reason = f"it ran for longer than its limit of {limits.time_limit:.0f} s"
                    return State(cluster.RUNNING, reason)
                if now - alive > limits.silence:
                    reason = f"it showed no sign of life for {limits.silence:.0f} s"
                    return State(cluster.RUNNING, reason)
                time.sleep(poll)
        finally:
            if follower is not None and follower.poll() is None:
                follower.terminate()
                follower.wait()


def _drain(follower: Popen[bytes], seconds: float) -> None:
    """Let the log's last lines arrive."""
    deadline = time.monotonic() + seconds
    while follower.poll() is None and time.monotonic() < deadline:
        time.sleep(min(0.1, seconds))
