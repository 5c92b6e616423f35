"""One session at a time on the devices of this machine."""

from __future__ import annotations

import threading
from typing import ClassVar

from filelock import FileLock, Timeout

from harness.base.errors import BadInput
from harness.devices.device import KEY, device
from harness.environments.sources import default_cache_dir
from harness.run.reporter import Reporter


class DeviceLock:
    """Holds the machine's devices: two trainers at once would starve each other's collectives.

    Runs of one process that are launched at once, where the machine carries them, hold them
    together. Raises BadInput where a process that is not a run of the harness has them.
    """

    _guard: ClassVar[threading.Lock] = threading.Lock()
    _held: ClassVar[dict[str, tuple[FileLock, int]]] = {}
    """The lock of each device that this process has, and how many of its runs hold it."""

    def __init__(self, device: str, reporter: Reporter) -> None:
        self.device, self.reporter = device, reporter

    def __enter__(self) -> None:
        with self._guard:
            lock, runs = self._held.get(self.device) or (self._acquired(), 0)
            self._held[self.device] = lock, runs + 1

    def _acquired(self) -> FileLock:
        cache = default_cache_dir()
        cache.mkdir(parents=True, exist_ok=True)
        # Another thread may be the last to hold it.
        lock = FileLock(cache / f"device-{self.device}.lock", thread_local=False)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            self.reporter.note("waiting for another run on this machine's devices")
            lock.acquire()
        # Whoever has them now is none of ours.
        if (reason := device(self.device).busy()) is not None:
            lock.release()
            raise BadInput(f"{KEY}={self.device}: {reason}")
        return lock

    def __exit__(self, *exception: object) -> None:
        with self._guard:
            lock, runs = self._held.pop(self.device)
            if runs > 1:
                self._held[self.device] = lock, runs - 1
            else:
                lock.release()
