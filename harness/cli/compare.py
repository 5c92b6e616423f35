"""`parity compare`: judge two Records that exist."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from harness.cli.options import Html, Json, Overrides, Verbose


def compare(
    a: Annotated[Path, typer.Argument(help="folder of the first Record")],
    b: Annotated[Path, typer.Argument(help="folder of the second Record")],
    overrides: Overrides = None,
    json_file: Json = None,
    html: Html = None,
    verbose: Verbose = False,
) -> None:
    """Judge two Records again. Nothing is launched."""
    from harness.cli.output import end
    from harness.config.compose import load
    from harness.record.reader import read_record
    from harness.run import session

    tolerance = load(list(overrides or [])).tolerance
    left, right = read_record(a), read_record(b)
    session.check_apart(left, right)
    end(session.compare(left, right, tolerance), json_file, html, verbose)
