"""How the command line tells what ended it."""

from __future__ import annotations

import contextlib

from harness.base.text import printable


def print_error(text: str) -> None:
    """Print it on stderr. Where that cannot be written there is nobody to tell."""
    from rich.console import Console

    # Rich raises SystemExit(1), which is FAIL's code, where stderr is a pipe that nobody reads.
    with contextlib.suppress(OSError, ValueError, SystemExit):
        Console(stderr=True).print(
            printable(text), style="red", markup=False, highlight=False, soft_wrap=True
        )
