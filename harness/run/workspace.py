"""Where Records live: their keys, their locks, and when one is used again.

    <workspace>/inputs/<digest>/            prepared inputs
    <workspace>/<case>/<engine>-<key>/      a Record
    <workspace>/<case>/.<engine>-<key>.lock     held by the session that runs it, and
    <workspace>/<case>/.<engine>-<key>.<attempt>.running, .scratch     folders of a run in progress

The key hashes all that can change what a run does, so that an unchanged run is never launched
twice and a changed one always is. Only a complete Record is used again.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
import shutil
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from harness.base.errors import BadInput
from harness.record import layout, reader, writer
from harness.record.checksums import check as check_unchanged
from harness.record.checksums import write_checksums
from harness.record.evidence import Manifest, Record

OBSERVING = (
    "base/files.py",
    "base/processes.py",
    "probe",
    "record/layout.py",
    "record/steady.py",
    "record/writer.py",
    "trainers",
)
"""Parts of the package whose code runs inside a trainer's process: they are part of the key."""


RUNNING, SCRATCH = ".running", ".scratch"

_ATTEMPT = re.compile(rf"\.(.+?)(?:\.[0-9a-f]{{8}})?(?:{RUNNING}|{SCRATCH})")


def _new_attempt() -> str:
    return uuid.uuid4().hex[:8]


@dataclass(frozen=True)
class Slot:
    """The place of one run in the workspace.

    attempt: names the folders of one launch. Whatever an earlier one still writes, it does not
             write into this one's Record
    """

    directory: Path
    attempt: str = field(default_factory=_new_attempt, compare=False)

    @property
    def running(self) -> Path:
        """Folder of the run while it is in progress."""
        return self._hidden(f"{self.attempt}{RUNNING}")

    @property
    def scratch(self) -> Path:
        """Folder that is thrown away after the run."""
        return self._hidden(f"{self.attempt}{SCRATCH}")

    def again(self) -> Slot:
        """The same place for another attempt."""
        return Slot(self.directory)

    def _hidden(self, suffix: str) -> Path:
        return self.directory.with_name(f".{self.directory.name}.{suffix}")

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the slot: a second session that wants the same run waits, and then finds it.

        Folders that runs of killed sessions left beside it are removed.
        """
        try:
            self.directory.parent.mkdir(parents=True, exist_ok=True)
            lock = FileLock(self._hidden("lock"))
            lock.acquire()
        except OSError as error:
            raise BadInput(
                f"workspace={self.directory.parent.parent}: it cannot be written ({error}); name "
                "another folder by workspace=PATH"
            ) from None
        try:
            for folder in _abandoned(self.directory):
                shutil.rmtree(folder, ignore_errors=True)
            yield
        finally:
            lock.release()

    def complete_record(self) -> Record | None:
        """The Record in this slot, if it is whole, and what it was when its run had ended."""
        if not (self.directory / layout.MANIFEST).is_file():
            return None
        try:
            check_unchanged(self.directory, *reader.READ)
            found = reader.read_record(self.directory)
        except BadInput:
            return None
        # A folder that was copied or renamed by hand is not the Record of this run.
        ours = self.directory.name.endswith(f"-{found.manifest.key}")
        return found if found.complete and ours else None

    def begin(self) -> None:
        """Make the folder of a new run."""
        self.running.mkdir(parents=True)

    def finish(self, manifest: Manifest) -> Record:
        """Write manifest and checksums, and put the run in its place, in a failed one's stead."""
        writer.write_json(self.running / layout.MANIFEST, dataclasses.asdict(manifest))
        write_checksums(self.running)
        self.take(self.running)
        return reader.read_record(self.directory)

    def take(self, whole: Path) -> None:
        """Put a whole Record's folder in its place; a failed one before it is replaced."""
        if self.directory.exists():
            self.scratch.mkdir(exist_ok=True)
            self.directory.rename(self.scratch / "replaced")
        whole.rename(self.directory)
        shutil.rmtree(self.scratch, ignore_errors=True)


def _abandoned(directory: Path) -> Iterator[Path]:
    """Folders of runs beside `directory` that nobody is at: its own, and those without a holder."""
    for folder in directory.parent.glob(".*"):
        found = _ATTEMPT.fullmatch(folder.name)
        if found is None:
            continue
        if found[1] == directory.name:
            yield folder
        else:
            with (
                suppress(Timeout, OSError),
                FileLock(folder.with_name(f".{found[1]}.lock"), timeout=0),
            ):
                yield folder


def slot(workspace: Path, case: str, engine: str, key: str) -> Slot:
    """The slot of a run of `engine` with `key`."""
    return Slot(workspace / case / f"{engine}-{key}")


def key_of(facts: dict[str, Any]) -> str:
    """Twelve hexadecimal digits for all that can change what a run does."""
    text = json.dumps({**facts, "observer": observer_digest()}, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


@cache
def observer_digest() -> str:
    """Hash of the code of ours that runs inside a trainer's process."""
    return code_digest(OBSERVING)


def code_digest(parts: Iterable[str]) -> str:
    """Hash of the code in these files and folders of the package."""
    package = Path(__file__).parents[1]
    digest = hashlib.sha256()
    for name in parts:
        path = package / name
        for file in sorted(path.rglob("*.py")) if path.is_dir() else [path]:
            digest.update(file.relative_to(package).as_posix().encode() + file.read_bytes())
    return digest.hexdigest()
