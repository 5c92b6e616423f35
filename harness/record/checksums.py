"""What every file of a Record was when its run had ended, so that damage to it is seen.

SHA256SUMS is what coreutils' `sha256sum --check` reads, which looks at all files. A Record in a
workspace that is not what it was is no Record of that run, which is launched again. Whoever has
Records judged that lie somewhere is told, and they are judged as they are. What is put beside them
later (compiled/, tensorboard/) is made of them, and not listed.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
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
    """Raise BadInput where one of these files of a Record is not what it was."""
    for text in changed(directory, *names):
        raise BadInput(f"{text}. {_WAY_OUT}")


def changed(directory: Path, *names: str) -> Iterator[str]:
    """What became of those of these files that are not what they were, a sentence each.

    A Record that has no checksums is of an earlier version of the harness: nothing is known of it.
    Of one whose checksums cannot be read neither, which is the only sentence then.
    """
    path = directory / CHECKSUMS
    if not path.is_file():
        return
    try:
        kept = _read(path)
    except ValueError as error:
        yield str(error)
        return
    for name in names:
        file = directory / name
        if name in kept and not file.is_file():
            yield f"{file} is missing: {CHECKSUMS} beside it lists it"
        elif file.is_file() and kept.get(name) != _sum(file):
            yield (
                f"{file} is damaged, or was changed after its run had ended: it is not the file "
                f"that {CHECKSUMS} beside it lists"
            )


_WAY_OUT = "Run the case again"


def _read(path: Path) -> dict[str, str]:
    """The checksums by name of the file. Raises ValueError, a sentence, where it has others."""
    try:
        lines = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from None
    found = [_LINE.fullmatch(line) for line in lines]
    if None in found:
        raise ValueError(f"{path} is damaged: line {found.index(None) + 1} is none of it")
    return {match[2]: match[1] for match in found if match is not None}


def _sum(path: Path) -> str:
    try:
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise BadInput(f"{path} cannot be read: {error.strerror or error}") from None
