"""A Command with every placeholder filled in: what a launcher starts."""

from __future__ import annotations

import dataclasses
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from harness.engines import command as placeholder
from harness.engines.command import Command

SPEC = "spec.json"


@dataclass(frozen=True)
class Places:
    """Where the placeholders of a Command are, as the launched process sees them."""

    record: Path
    inputs: Path
    scratch: Path
    package: Path
    source: Path | None = None
    shared: Path | None = None
    output: Path | None = None
    saved: Path | None = None

    def fill(self, text: str) -> str:
        """`text` with every placeholder replaced."""
        values = {
            placeholder.RECORD: self.record,
            placeholder.INPUTS: self.inputs,
            placeholder.SCRATCH: self.scratch,
            placeholder.PACKAGE: self.package,
            placeholder.SOURCE: self.source,
            placeholder.SHARED: self.shared,
            placeholder.OUTPUT: self.output,
            placeholder.SAVED: self.saved,
        }
        for name, path in values.items():
            if path is not None:
                text = text.replace(name, str(path))
        return text


@dataclass(frozen=True)
class Invocation:
    """A process to be started.

    argv:        the whole command line, without a shell
    environment: variables to be set on top of the launcher's own environment
    cwd:         its working folder
    """

    argv: tuple[str, ...]
    environment: Mapping[str, str]
    cwd: Path
    files: Mapping[Path, str] = field(default_factory=dict)

    def write_files(self) -> None:
        """Write the files that the command needs."""
        for path, text in self.files.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)


def watched(
    command: Command,
    places: Places,
    python: str,
    pythonpath: tuple[Path, ...] = (),
    environment: Mapping[str, str] | None = None,
) -> Invocation:
    """The Command under the probe, in interpreter `python`."""
    spec_path = places.scratch / SPEC
    files = {places.scratch / name: places.fill(text) for name, text in command.files.items()}
    files[spec_path] = places.fill(command.spec.to_json())
    return dataclasses.replace(
        bare(command, places, python, pythonpath, environment),
        argv=(
            python, "-m", "harness.probe", "--record", str(places.record),
            "--spec", str(spec_path), "--", *(places.fill(a) for a in command.argv),
        ),
        files=files,
    )  # fmt: skip


def bare(
    command: Command,
    places: Places,
    python: str,
    pythonpath: tuple[Path, ...] = (),
    environment: Mapping[str, str] | None = None,
) -> Invocation:
    """The Command by itself, not watched: to show that watching changes nothing."""
    own = tuple(Path(places.fill(p)) for p in command.pythonpath)
    path = os.pathsep.join(map(str, (places.scratch / "path", *own, *pythonpath)))
    return Invocation(
        argv=(python, *(places.fill(a) for a in command.argv)),
        environment={
            **{k: places.fill(v) for k, v in command.environment.items()},
            **{k: places.fill(v) for k, v in (environment or {}).items()},
            "PYTHONPATH": path,
            "PYTHONUNBUFFERED": "1",
        },
        cwd=places.scratch,
        files={places.scratch / name: places.fill(text) for name, text in command.files.items()},
    )


def make_scratch(places: Places) -> None:
    """Make the scratch folder, with the harness, and nothing else of ours, on its path."""
    shutil.rmtree(places.scratch, ignore_errors=True)
    (places.scratch / "path").mkdir(parents=True)
    (places.scratch / "path" / "harness").symlink_to(places.package)
