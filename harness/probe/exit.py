"""Ends a trainer's process without taking its interpreter apart.

That takes torch, torch_xla and transformers about two seconds and changes nothing any more: memory
is freed object by object, which the system frees at once.
"""

from __future__ import annotations

import atexit
import ctypes
import gc
import io
import os
import sys
import threading
from typing import IO, Any, NoReturn

FLUSH_FAILED = 120
"""Python's own exit code where standard output could not be written at its end."""

BUFFERED = (io.BufferedWriter, io.BufferedRandom, io.BufferedRWPair, io.TextIOWrapper)


_frozen: list[Any] = []


def freeze() -> None:
    """Freeze what there is for the garbage collector, and remember what files are open."""
    gc.collect()
    _frozen.extend(_files())
    gc.freeze()


def exit_now(code: int) -> NoReturn:
    """End with `code` as Python does, up to where it would begin to free its objects.

    Other threads are waited for, unless they are daemons; whatever is registered with `atexit`
    runs; and what any open file still buffers is written, whoever forgot to close it.
    """
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    for held in (*_frozen, *_files()):
        _flush(held)
    if not (_flush(sys.stdout) and _flush(sys.stderr)):
        code = code or FLUSH_FAILED
    ctypes.CDLL(None).fflush(None)
    os._exit(code & 0xFF)


def _files() -> list[Any]:
    """Files that buffer. `isinstance` would ask lazy modules what they are."""
    return [held for held in gc.get_objects() if issubclass(type(held), BUFFERED)]


def _flush(stream: IO[Any] | None) -> bool:
    """Whether nothing is left in the stream's buffer."""
    try:
        if stream is not None and not stream.closed and stream.writable():
            stream.flush()
    except (OSError, ValueError):
        return False
    return True
