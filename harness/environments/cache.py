"""Folders that are made once, found again, and safe against other processes."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from harness.base.errors import BadInput
from harness.base.progress import Progress


@contextmanager
def exclusive(target: Path, progress: Progress) -> Iterator[None]:
    """Only one process at a time makes or changes ``target``, a file or folder of the cache.

    Raises:
        BadInput: the folder of `target` cannot be written.
    """
    lock = FileLock(target.with_name(f"{target.name}.lock"))
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            progress(f"waiting for another process that makes {target.name}")
            lock.acquire()
    except OSError as error:
        raise BadInput(
            f"The cache folder {target.parent} cannot be written ({error.strerror or error}): set "
            "PARITY_CACHE to a folder that can."
        ) from error
    try:
        yield
    finally:
        lock.release()


@contextmanager
def in_one_piece(target: Path) -> Iterator[Path]:
    """A path to make the folder ``target`` under.

    It gets its name only when the block ends without an error. To be used within `exclusive`: what
    a killed process left behind is removed.
    """
    partial = target.with_name(f"{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        yield partial
        partial.rename(target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def made_once(target: Path, fill: Callable[[Path], None], note: str, progress: Progress) -> None:
    """Have `fill` make the folder `target`, given the path to make it under, where there is none.

    note: said before it is made

    Raises:
        BadInput: the folder of `target` cannot be written.
    """
    if target.exists():
        return
    with exclusive(target, progress):
        if not target.exists():
            progress(note)
            with in_one_piece(target) as partial:
                fill(partial)
