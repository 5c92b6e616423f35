"""How every command that judges ends: the ladder, the files that were asked for, the exit code."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import typer
from rich.console import Console

from harness.report.made import made_by
from harness.report.terminal import print_verdict
from harness.run.session import Outcome

if TYPE_CHECKING:
    from harness.report.history import Line


def end(
    outcome: Outcome,
    json_file: Path | None,
    html: Path | None,
    verbose: bool = False,
    junit: Path | None = None,
    lines: Sequence[Line] = (),
    written: Sequence[str] = (),
) -> NoReturn:
    """Write what was asked for, print the ladder, and exit by the verdict.

    lines:   how cases did over time, for the page
    written: what was written already, a line each
    """
    verdict = outcome.verdict
    records = {str(r.directory): r for r in (*outcome.records.values(), *outcome.runs)}
    made = made_by("parity", sys.argv[1:])
    written = list(written)
    if json_file is not None:
        from harness.report.verdict_file import write_verdict

        write_verdict(json_file, verdict, records, made)
        written.append(f"verdict: {json_file.resolve()}")
    if html is not None:
        from harness.report.html import write_html  # jinja2 takes a while to be imported

        write_html(html, verdict, records, made, lines)
        written.append(f"report: {html.resolve()}")
    if junit is not None:
        from harness.report.junit import write_junit

        write_junit(junit, verdict)
        written.append(f"tests: {junit.resolve()}")
    if os.environ.get("GITHUB_STEP_SUMMARY"):
        from harness.report.github import append_job_summary

        append_job_summary(verdict, records, made, os.environ)
    print_verdict(verdict, Console(), verbose, written)
    raise typer.Exit(verdict.exit_code)
