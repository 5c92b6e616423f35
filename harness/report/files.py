"""The files that a verdict is written to."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from harness.base.crash import crashed
from harness.base.errors import BadInput
from harness.base.files import is_stream, write_text
from harness.record.writer import json_text

if TYPE_CHECKING:
    from harness.ladder.verdict import Verdict
    from harness.record.evidence import Record
    from harness.report.history import HistoryLine
    from harness.report.made import Made

STDOUT = Path("-")
"""Names the standard output."""


def check_writable(option: str, file: Path) -> None:
    """Make the folder of `file`, so that a session does not train first and fail to write then.

    Raises BadInput, which names the `option`, where the file cannot be written.
    """
    if file == STDOUT:
        return
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadInput(f"{option} {file}: its folder cannot be made ({error})") from None
    if file.is_dir():
        raise BadInput(f"{option} {file} is a folder: name a file in it")
    # A device or a pipe is written to. A file is replaced, in the folder that it really is in.
    place = file if file.exists() else Path(os.path.realpath(file)).parent
    if not os.access(place, os.W_OK):
        raise BadInput(f"{option} {file} cannot be written: name another place, or change its mode")


@dataclass(frozen=True)
class Reports:
    """What became of the reports of a verdict.

    written:  where each went, a line each
    failures: a sentence on each that could not be written
    """

    written: tuple[str, ...]
    failures: tuple[str, ...]


def write_reports(
    verdict: Verdict,
    records: Callable[[], Mapping[str, Record]],
    made: Made,
    json_file: Path | None,
    html: Path | None,
    environ: Mapping[str, str],
    junit: Path | None = None,
    lines: Sequence[HistoryLine] = (),
) -> Reports:
    """Write the reports that were asked for, and the job summary that $GITHUB_STEP_SUMMARY names.

    None of them keeps the verdict from a person who waited for it, for whatever reason it cannot
    be written.

    lines: how cases did over time, for the page
    """

    def write_json(file: Path) -> None:
        from harness.report.verdict_file import verdict_json

        _write(file, json_text(verdict_json(verdict, records(), made)))

    def write_html(file: Path) -> None:
        from harness.report.html import render  # jinja2 takes a while to be imported

        _write(file, render(verdict, records(), made, lines))

    def write_junit(file: Path) -> None:
        from harness.report.junit import junit as as_junit

        _write(file, as_junit(verdict))

    def append_summary(_: Path) -> None:
        from harness.report.github import append_job_summary

        append_job_summary(verdict, records(), made, environ)

    summary = environ.get("GITHUB_STEP_SUMMARY")
    written, failures = [], []
    for name, file, write in (
        ("verdict", json_file, write_json),
        ("report", html, write_html),
        ("JUnit file", junit, write_junit),
        ("job summary", Path(summary) if summary else None, append_summary),
    ):
        if file is None:
            continue
        try:
            write(file)
        except BadInput as error:
            failures.append(f"the {name} was not written: {error}")
        except Exception as error:
            failures.append(f"the {name} was not written to {file}: {crashed(error)}")
        else:
            if file != STDOUT and write != append_summary:
                written.append(f"{name}: {file if is_stream(file) else file.resolve()}")
    return Reports(tuple(written), tuple(failures))


def _write(file: Path, text: str) -> None:
    if file == STDOUT:
        sys.stdout.write(text)
        sys.stdout.flush()
    else:
        write_text(file, text)
