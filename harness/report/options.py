"""Options of every command that judges: where its verdict is written."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Json = Annotated[
    Path | None,
    typer.Option("--json", metavar="FILE", help="write the whole verdict for other programs"),
]
Html = Annotated[
    Path | None,
    typer.Option("--html", metavar="FILE", help="write a self-contained report with the curves"),
]
