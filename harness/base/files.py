"""Writes files so that no reader ever sees half of one. Standard library: trainers use it too."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A file to be written in place of `path`, which it becomes where the block ends without error.

    It lies beside `path` under a name of its own until then, so that two writers never share one.
    """
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
