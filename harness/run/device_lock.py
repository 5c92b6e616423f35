"""One run at a time on the devices of this machine."""

from __future__ import annotations

from filelock import FileLock, Timeout

from harness.base.errors import BadInput
from harness.devices.device import KEY, device
from harness.environments.sources import default_cache_dir
from harness.run.reporter import Reporter


class DeviceLock:
    """Holds the machine's devices: two trainers at once would starve each other's collectives.

    Raises BadInput where a process that is not a run of the harness has them.
    """

    def __init__(self, device: str, reporter: Reporter) -> None:
        cache = default_cache_dir()
        cache.mkdir(parents=True, exist_ok=True)
        self.lock = FileLock(cache / f"device-{device}.lock")
        self.device, self.reporter = device, reporter

    def __enter__(self) -> None:
        try:
            self.lock.acquire(timeout=0)
        except Timeout:
            self.reporter.note("waiting for another run on this machine's devices")
            self.lock.acquire()
        # Whoever has them now is none of ours.
        if (reason := device(self.device).busy()) is not None:
            self.lock.release()
            raise BadInput(f"{KEY}={self.device}: {reason}")

    def __exit__(self, *exception: object) -> None:
        self.lock.release()
