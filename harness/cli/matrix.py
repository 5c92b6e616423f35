"""`parity matrix`: every case, sharding and feature, trained by its pairs of engines."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from harness.base.errors import BadInput
from harness.base.files import write_text
from harness.cli.options import GateOverrides, Torchprime, overrides_of, progress, writable
from harness.report.files import STDOUT

SHIPPED = "shipped"


def matrix(
    overrides: GateOverrides = None,
    torchprime: Torchprime = None,
    only: Annotated[
        str | None,
        typer.Option(
            "--only", metavar="PATTERN", show_default=False,
            help="only the cells whose heading, title or case contains this; * is anything",
        ),
    ] = None,
    seconds: Annotated[
        float | None,
        typer.Option(
            "--seconds", metavar="BUDGET", show_default=False,
            help="begin no cell after so many seconds; the rest is told as it was last time",
        ),
    ] = None,
    markdown: Annotated[
        Path | None,
        typer.Option(
            "--markdown", metavar="FILE", callback=writable, show_default=False,
            help="write the whole table",
        ),
    ] = None,
    name: Annotated[
        str, typer.Option("--matrix", metavar="NAME", help="a file matrix/NAME.yaml of configs")
    ] = SHIPPED,
) -> None:  # fmt: skip
    """Train every cell of the matrix by each of its pairs of engines.

    What is in the workspace is not launched again: after a change to one case only its cells are.

    Examples:

    parity matrix

    parity matrix --only qwen3

    parity matrix --seconds 1800 --markdown matrix.md
    """
    from harness.config.matrix import read_matrix
    from harness.ladder.matrix import NEVER_RUN, Entry, counted, exit_code_of
    from harness.report.matrix import line, page
    from harness.run.matrix import run_matrix

    if seconds is not None and not seconds > 0:
        raise BadInput(f"--seconds {seconds:g}: it has to be positive")
    asked = read_matrix(name).only(only)
    words = overrides_of(overrides, torchprime)
    aside = markdown == STDOUT

    def tell(entry: Entry) -> None:
        typer.echo(line(entry), err=aside)

    reporter = progress()
    try:
        found = run_matrix(asked, words, reporter, seconds, tell)
    finally:
        reporter.close()
    states = [entry.state for entry in found]
    if missing := sum(state.state == NEVER_RUN for state in states):
        typer.echo(f"not reached within {seconds:g} s: {missing} of {len(states)}", err=aside)
    typer.echo(counted(states), err=aside)
    if markdown is not None:
        if aside:
            typer.echo(page(found, words), nl=False)
        else:
            write_text(markdown, page(found, words))
            typer.echo(f"matrix: {markdown}")
    raise typer.Exit(exit_code_of(states))
