"""Waits until code is edited, for `parity train --interactive`."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from harness.environments.folders import code_files

POLL = 1.0
"""Seconds between two looks."""


@dataclass(frozen=True)
class Watched:
    """Code as it was at some time: what git does not ignore, else all files.

    folder: its top
    output: what is below this is no code
    stamps: by file, when it was changed and how large it is
    """

    folder: Path
    output: Path
    stamps: dict[str, tuple[int, int]]

    @staticmethod
    def of(source: Path | None, output: Path) -> Watched:
        """The checkout that is trained with as it is now, or the current folder where there is
        none."""
        folder = Path.cwd() if source is None else source
        return Watched(folder, output, _stamps(folder, output))

    def edited(self) -> Path:
        """Wait for the first file that is not as it was."""
        while True:
            now = _stamps(self.folder, self.output)
            changed = {k for k in {*now, *self.stamps} if now.get(k) != self.stamps.get(k)}
            if changed:
                return self.folder / min(changed)
            time.sleep(POLL)

    def __str__(self) -> str:
        return str(self.folder)


def _stamps(folder: Path, output: Path) -> dict[str, tuple[int, int]]:
    found = {}
    for name in code_files(folder):
        if (folder / name).is_relative_to(output):
            continue
        try:
            status = (folder / name).stat()
        except FileNotFoundError:
            continue
        found[name] = (status.st_mtime_ns, status.st_size)
    return found
