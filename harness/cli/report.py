"""`parity report`: every report again, from Records alone."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from harness.cli.options import Html, Json, Junit, Verbose
from harness.report.files import STDOUT


def report(
    folders: Annotated[
        list[Path], typer.Argument(metavar="DIR...", help="workspaces, or folders of Records")
    ],
    json_file: Json = None,
    html: Html = None,
    tensorboard: Annotated[
        Path | None,
        typer.Option("--tensorboard", metavar="DIR", show_default=False,
                     help="write a logdir that overlays all runs"),
    ] = None,
    junit: Junit = None,
    verbose: Verbose = False,
) -> None:  # fmt: skip
    """Judge again whatever Records there are, of any number of sessions, and show how it changed.

    Launches nothing. The page of --html has all pairs against all rungs, and how step time, memory
    and losses of each case went over dates and versions.

    Examples:

    parity report workspace --html report.html

    parity report monday/ tuesday/ --json verdict.json --tensorboard logs --junit junit.xml
    """
    from harness.cli.output import end
    from harness.config.compose import load
    from harness.report.history import history
    from harness.report.history_text import history_lines
    from harness.run.again import find_records, judge_again

    found = find_records(folders)
    outcome = judge_again(found, load([]).tolerance)
    lines = history(found.records)
    # Where a report takes the standard output it is alone there.
    shown_on = sys.stderr if STDOUT in (json_file, html, junit) else sys.stdout
    for text in history_lines(lines):
        print(text, file=shown_on)
    written = []
    if tensorboard is not None:
        from harness.report.tensorboard import write_logdir

        write_logdir(tensorboard, outcome.verdict, outcome.records)
        written.append(f"TensorBoard: tensorboard --logdir {tensorboard.resolve()}")
    end(outcome, json_file, html, verbose, junit, lines, written)
