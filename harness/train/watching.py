"""Waits until code is edited, for `parity train --interactive`."""

from __future__ import annotations

import dataclasses
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
    script: what is run, which may lie elsewhere; None where the folder has it
    output: what is below this is no code
    stamps: by file, when it was changed and how large it is
    """

    folder: Path
    script: Path | None
    output: Path
    stamps: dict[Path, tuple[int, int]]

    @staticmethod
    def of(source: Path | None, output: Path, script: Path | None = None) -> Watched:
        """The checkout that is trained with as it is now, or the current folder where there is
        none; and the script."""
        folder = Path.cwd() if source is None else source
        return Watched(folder, script, output, {}).now()

    def now(self) -> Watched:
        """The same code as it is now."""
        files = [self.folder / name for name in code_files(self.folder)]
        if self.script is not None:
            files.append(self.script)
        stamps = {}
        for file in files:
            if file.is_relative_to(self.output):
                continue
            try:
                status = file.stat()
            except FileNotFoundError:
                continue
            stamps[file] = (status.st_mtime_ns, status.st_size)
        return dataclasses.replace(self, stamps=stamps)

    def edited(self) -> Path:
        """Wait for the first file that is not as it was."""
        while True:
            then, now = self.stamps, self.now().stamps
            if changed := {k for k in {*now, *then} if now.get(k) != then.get(k)}:
                return min(changed)
            time.sleep(POLL)

    def __str__(self) -> str:
        return str(self.folder)
