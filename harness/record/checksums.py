"""What every file of a Record was when its run had ended, so that damage to it is seen.

SHA256SUMS is what coreutils' `sha256sum --check` reads, which looks at all files; whoever reads one
of them here looks at that one. What is put beside them later (compiled/, tensorboard/) is made of
them, and not listed.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

from harness.base.errors import BadInput
from harness.base.files import write_text

CHECKSUMS = "SHA256SUMS"

_LINE = re.compile(r"([0-9a-f]{64})  (.+)")


def write_checksums(directory: Path) -> None:
    """List every file that is in `directory` now."""
    files = sorted(p for p in directory.rglob("*") if p.is_file() and p != directory / CHECKSUMS)
    lines = [f"{_sum(path)}  {path.relative_to(directory).as_posix()}\n" for path in files]
    write_text(directory / CHECKSUMS, "".join(lines))


def check(directory: Path, *names: str) -> None:
    """Raise BadInput where one of these files of a Record is not what it was.

    A Record that has no checksums is of an earlier version of the harness: nothing is known of it.
    """
    path = directory / CHECKSUMS
    if not path.is_file():
        return
    kept = _read(path)
    for name in names:
        file = directory / name
        if name in kept and not file.is_file():
            raise BadInput(f"{file} is missing: {CHECKSUMS} beside it lists it. {_WAY_OUT}")
        if file.is_file() and kept.get(name) != _sum(file):
            raise BadInput(
                f"{file} is damaged, or was changed after its run had ended: it is not the file "
                f"that {CHECKSUMS} beside it lists. {_WAY_OUT}"
            )


_WAY_OUT = "Run the case again"


def _read(path: Path) -> dict[str, str]:
    """The checksums by name of the file."""
    try:
        lines = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"{path} cannot be read: {error}. {_WAY_OUT}") from None
    found = [_LINE.fullmatch(line) for line in lines]
    if None in found:
        raise BadInput(f"{path} is damaged: line {found.index(None) + 1} is none of it. {_WAY_OUT}")
    return {match[2]: match[1] for match in found if match is not None}


def _sum(path: Path) -> str:
    try:
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise BadInput(f"{path} cannot be read: {error.strerror or error}") from None
