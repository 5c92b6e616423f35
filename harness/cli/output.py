"""How every command that judges ends: the ladder, the files that were asked for, the exit code."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NoReturn

import typer
from rich.console import Console

from harness.record.writer import write_json
from harness.report.github import append_job_summary
from harness.report.terminal import print_verdict
from harness.run.session import Outcome


def end(outcome: Outcome, json_file: Path | None, html: Path | None) -> NoReturn:
    """Write what was asked for, print the ladder, and exit by the verdict."""
    if json_file is not None:
        write_json(json_file, outcome.verdict.to_json())
    if html is not None:
        from harness.report.html import write_html  # jinja2 takes a while to be imported

        write_html(html, outcome.verdict, dict(outcome.records))
    append_job_summary(outcome.verdict, os.environ)
    print_verdict(outcome.verdict, Console())
    raise typer.Exit(outcome.verdict.exit_code)
