"""A session that ends by a fault of the machine or a defect of the harness gives no verdict.

It has an exit code and a sentence of its own.
"""

from __future__ import annotations

import errno
import os
import tempfile
import traceback

CRASHED = 4
"""Exit code of a session that was ended by the machine or by a defect, and says nothing of any
run."""

WAYS_OUT = {
    errno.ENOSPC: "free some disk",
    errno.EDQUOT: "free some of the quota",
    errno.EFBIG: "raise the limit on file sizes (ulimit -f)",
    errno.EROFS: "name a place that can be written",
    errno.EACCES: "change its mode, or name another place",
    errno.EPERM: "change its mode, or name another place",
    errno.EIO: "look for what the kernel says of the disk (dmesg)",
    errno.ENODEV: "look for what the kernel says of the device (dmesg)",
    errno.ESTALE: "mount the file system again",
    errno.ENOTCONN: "mount the file system again",
    errno.EMFILE: "raise the limit on open files (ulimit -n)",
    errno.ENFILE: "end some processes",
    errno.EAGAIN: "end some processes, or raise their limit (ulimit -u)",
    errno.ENOMEM: "end some processes, or ask for less",
    errno.EPIPE: "whoever read the output has ended",
}
"""Faults that a machine has, by their error numbers, and what a person does about each."""


def crashed(error: BaseException) -> str:
    """One paragraph on `error`: what failed, and the way out.

    The traceback of a defect is written to a file that it names.
    """
    if isinstance(error, MemoryError):
        return _of_machine("no memory is left", WAYS_OUT[errno.ENOMEM])
    if isinstance(error, OSError) and error.errno in WAYS_OUT:
        where = "" if error.filename is None else f"{os.fsdecode(error.filename)}: "
        return _of_machine(f"{where}{error.strerror}", WAYS_OUT[error.errno])
    name, message = type(error).__name__, " ".join(str(error).split())
    summary = f"{name}: {message}" if message else name
    text = f"the harness itself failed, and says nothing of the runs ({summary})"
    trace = "".join(traceback.format_exception(error))
    try:
        with tempfile.NamedTemporaryFile(
            "w", encoding="utf-8", prefix="parity-crash-", suffix=".txt", delete=False
        ) as file:
            file.write(trace)
    except OSError:
        return f"{text}; please report it:\n{trace}"
    return f"{text}; please report it with {file.name}"


def _of_machine(fault: str, way_out: str) -> str:
    return (
        f"this machine failed, which says nothing of the runs ({fault}): {way_out}. The same "
        "command again takes up where this one ended"
    )
