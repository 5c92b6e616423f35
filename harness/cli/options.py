"""Options of every command that judges: where its verdict is written."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from harness.report.files import check_writable


def _checked(option: typer.CallbackParam, file: Path | None) -> Path | None:
    if file is not None:
        check_writable(option.opts[0], file)
    return file


Json = Annotated[
    Path | None,
    typer.Option(
        "--json", metavar="FILE", callback=_checked,
        help="write the whole verdict for other programs",
    ),
]  # fmt: skip
Html = Annotated[
    Path | None,
    typer.Option(
        "--html", metavar="FILE", callback=_checked,
        help="write a self-contained report with the curves",
    ),
]  # fmt: skip
