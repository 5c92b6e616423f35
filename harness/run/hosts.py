"""The hosts of a pod slice, on each of which the same command runs over one workspace.

Every host launches every run, at the same time as all others: under SPMD none gets on without the
rest. Each leaves its part of the observations; the first host merges them, and all judge the merged
Record. What is decided once, such as whether a run is there already, the first host decides.

    <workspace>/.hosts/come-<index>-<id>      a host that waits for the others, touched as it waits
    <workspace>/.hosts/<id of the first>/     one meeting: who takes part, and what was decided

They share nothing but the folder, which may be on a network file system.
"""

from __future__ import annotations

import json
import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from harness.base.errors import BadInput
from harness.record.writer import write_json

POLL = 0.2
"""Seconds between two looks at the folder."""

FRESH = 10.0
"""Seconds after which a host that does not touch its file any more is taken to have gone."""

OLD = 86_400.0
"""Seconds after which what is left of a meeting is removed."""

MEMBERS = "members.json"


def index_of(hosts: int, environ: Mapping[str, str] = os.environ) -> int:
    """Which of so many hosts this is. Raises BadInput where nothing tells."""
    from harness.launchers.host import index  # brings a client of object storage

    if not environ.get("TPU_WORKER_ID"):
        raise BadInput(
            f"launcher.hosts={hosts}: nothing tells which of them this is; set TPU_WORKER_ID to "
            f"its number, 0 to {hosts - 1}"
        )
    found = index(environ)
    if not 0 <= found < hosts:
        raise BadInput(f"launcher.hosts={hosts}: this is host {found}; they count from 0")
    return found


@dataclass
class Meeting:
    """One session of all hosts.

    folder: what they share
    index:  this host
    count:  how many there are
    limit:  seconds that one waits for the others
    """

    folder: Path
    index: int
    count: int
    limit: float
    _decisions: int = field(default=0, init=False)

    @property
    def first(self) -> bool:
        """Whether this is the host that decides."""
        return self.index == 0

    def decided(self, what: str, decide: Callable[[], Any]) -> Any:
        """What the first host makes of `decide`, on all hosts. They ask for the same in one order.

        Raises BadInput where another host asks for something else, or none comes.
        """
        number, self._decisions = self._decisions, self._decisions + 1
        path = self.folder / f"decision-{number:04d}.json"
        if self.first:
            write_json(path, {"what": what, "value": decide()})
        self._wait(lambda: [] if path.is_file() else [0], what)
        decision = json.loads(path.read_text())
        if decision["what"] != what:
            raise BadInput(
                f"launcher.hosts={self.count}: host {self.index} comes to {what}, and the first "
                f"host to {decision['what']}: they run other commands, or have other versions"
            )
        return decision["value"]

    def all_here(self, what: str) -> None:
        """Wait until every host has come to `what`. Raises BadInput where one does not come."""
        (self.folder / f"{what}.{self.index}").touch()
        there = [self.folder / f"{what}.{i}" for i in range(self.count)]
        self._wait(lambda: [i for i, path in enumerate(there) if not path.exists()], what)

    def _wait(self, missing: Callable[[], list[int]], what: str) -> None:
        deadline = time.monotonic() + self.limit
        while hosts := missing():
            if time.monotonic() > deadline:
                named = ", ".join(map(str, hosts))
                raise BadInput(
                    f"launcher.hosts={self.count}: host {named} did not come to {what} within "
                    f"{self.limit:.0f} s (launcher.silence): see its own output"
                )
            time.sleep(POLL)


@cache
def meeting(workspace: Path, hosts: int, limit: float) -> Meeting:
    """The meeting of this process with those of the other hosts, over one workspace.

    Raises BadInput where they do not come, or nothing tells which host this is.
    """
    return meet(workspace / ".hosts", index_of(hosts), hosts, limit)


def meet(folder: Path, number: int, count: int, limit: float) -> Meeting:
    """Wait for all other hosts, in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    own = uuid.uuid4().hex
    come = folder / f"come-{number}-{own}"
    deadline = time.monotonic() + limit
    try:
        while True:
            come.touch()
            place = _called(folder, come, count) if number == 0 else _joined(folder, number, own)
            if place is not None:
                return Meeting(place, number, count, limit)
            if time.monotonic() > deadline:
                raise BadInput(
                    f"launcher.hosts={count}: the other hosts did not come within {limit:.0f} s "
                    f"(launcher.silence). Start the same command on each of them, with a workspace "
                    f"that all share: {folder.parent}"
                )
            time.sleep(POLL)
    finally:
        come.unlink(missing_ok=True)


def _called(folder: Path, come: Path, count: int) -> Path | None:
    """On the first host: the meeting, once all have come. By the clock of the file system."""
    now = come.stat().st_mtime
    _remove_old(folder, now)
    members = {int(n): own for n, own in _waiting(folder, now)}
    if members.keys() < set(range(count)):
        return None
    place = folder / members[0]
    place.mkdir()
    write_json(place / MEMBERS, {str(n): own for n, own in members.items()})
    return place


def _waiting(folder: Path, now: float) -> Iterator[tuple[str, str]]:
    """Number and id of the hosts that are still touching their files."""
    for path in sorted(folder.glob("come-*"), key=_touched):
        if now - _touched(path) < FRESH:
            _, number, own = path.name.split("-")
            yield number, own


def _joined(folder: Path, number: int, own: str) -> Path | None:
    """On another host: the meeting that it takes part in."""
    for path in folder.glob(f"*/{MEMBERS}"):
        if json.loads(path.read_text()).get(str(number)) == own:
            return path.parent
    return None


def _remove_old(folder: Path, now: float) -> None:
    for path in folder.iterdir():
        if now - _touched(path) > OLD:
            shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink()


def _touched(path: Path) -> float:
    """When a file was last touched; long ago where it has gone."""
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return 0.0
