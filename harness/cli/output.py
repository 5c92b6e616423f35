"""How every command that judges ends: the ladder, the files that were asked for, the exit code."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import typer
from rich.console import Console

from harness.base.crash import CRASHED
from harness.cli.errors import print_error
from harness.report.files import STDOUT, write_reports
from harness.report.made import made_by
from harness.report.terminal import print_verdict
from harness.run.session import Outcome

if TYPE_CHECKING:
    from harness.report.history import HistoryLine


def end(
    outcome: Outcome,
    json_file: Path | None,
    html: Path | None,
    verbose: bool = False,
    junit: Path | None = None,
    lines: Sequence[HistoryLine] = (),
    written: Sequence[str] = (),
) -> NoReturn:
    """Write what was asked for, print the ladder, and exit by the verdict.

    The ladder goes to stderr where a report takes the standard output. A PASS whose reports could
    not be written does not exit as one.

    lines:   how cases did over time, for the page
    written: what was written already, a line each
    """
    verdict, made = outcome.verdict, made_by("parity", sys.argv[1:])
    records = {str(r.directory): r for r in (*outcome.records.values(), *outcome.runs)}
    reports = write_reports(
        verdict, lambda: records, made, json_file, html, os.environ, junit, lines
    )
    console = Console(stderr=STDOUT in (json_file, html, junit))
    print_verdict(verdict, console, verbose, (*written, *reports.written))
    for failure in reports.failures:
        print_error(f"error: {failure}")
    raise typer.Exit(verdict.exit_code or (CRASHED if reports.failures else 0))
