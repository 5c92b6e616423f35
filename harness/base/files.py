"""Writes files so that no reader ever sees half of one. Standard library: trainers use it too."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


def expanded(path: str | Path) -> Path:
    """A path as a user gives it, with `~` and `~user` for their folders.

    Of a user that there is not it stays as it is, and so does not exist: `Path.expanduser` raises
    RuntimeError.
    """
    return Path(os.path.expanduser(path))


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A file to be written in place of `path`, which it becomes where the block ends without error.

    It lies beside `path` under a name of its own until then, so that two writers never share one.
    A link stays where it is: the file that it names is replaced. A device or a pipe (`is_stream`)
    is written to as it is.

    Raises OSError that names `path`.
    """
    try:
        if is_stream(path):
            with os.fdopen(os.open(path, os.O_WRONLY | os.O_APPEND), "wb") as stream:
                yield stream
        else:
            with _beside(Path(os.path.realpath(path))) as stream:
                yield stream
    except OSError as error:
        if error.filename is None:  # a write knows no name, and a full disk is met there
            error.filename = str(path)
        raise


def is_stream(path: Path) -> bool:
    """Whether `path` is there to be written to, and not to be replaced.

    So is a device, a pipe, and a name under which a file is open already (/dev/stdout, /dev/fd/3).
    """
    if path.exists() and not path.is_file():
        return not path.is_dir()
    return str(path) in ("/dev/stdout", "/dev/stderr") or Path(os.path.realpath(path.parent)).match(
        "/proc/*/fd"
    )


@contextmanager
def _beside(path: Path) -> Iterator[BinaryIO]:
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as stream:
            yield stream
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def write_text(path: Path, text: str) -> None:
    """Write `text` in place of `path`, in UTF-8."""
    with replacing(path) as stream:
        stream.write(text.encode())
