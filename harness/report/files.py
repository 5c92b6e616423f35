"""The files that a verdict is written to."""

from __future__ import annotations

import os
from pathlib import Path

from harness.base.errors import BadInput


def check_writable(option: str, file: Path) -> None:
    """Make the folder of `file`, so that a session does not train first and fail to write then.

    Raises BadInput, which names the `option`, where the file cannot be written.
    """
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadInput(f"{option} {file}: its folder cannot be made ({error})") from None
    if file.is_dir():
        raise BadInput(f"{option} {file} is a folder: name a file in it")
    if not os.access(file if file.exists() else file.parent, os.W_OK):
        raise BadInput(f"{option} {file} cannot be written: name another place, or change its mode")
