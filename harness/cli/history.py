"""`parity history`: how cases did over versions and dates."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from harness.base.errors import BadInput
from harness.cli.options import BASELINES

FOLDERS = (Path("workspace"), BASELINES)


def history(
    folders: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="[DIR]...",
            help="workspaces, folders of Records, or of baselines (default: workspace and "
            "baselines, as far as they are there)",
            show_default=False,
        ),
    ] = None,
    case: Annotated[
        str | None,
        typer.Option("--case", metavar="NAME", help="this case alone", show_default=False),
    ] = None,
) -> None:
    """Show step time, memory, compilations and losses of each case, run by run.

    From three runs on each has a bound by the spread of those before. What is beyond it is told;
    once three in a row are, the bound moves, and the line says since which versions.

    parity history

    parity history workspace /shared/nightly --case llama-tiny
    """
    from harness.gate.baselines import records_in
    from harness.report.history import history as lines_of
    from harness.report.history_text import history_lines
    from harness.run.again import find_any

    named = folders or [folder for folder in FOLDERS if folder.is_dir()]
    found = find_any(named)
    records = [*found.records, *records_in(named)]
    shown = [r for r in records if case is None or r.case.name == case]
    lines = lines_of(shown)
    if not lines:
        names = ", ".join(sorted({record.case.name for record in records})) or "none"
        raise BadInput(
            f"no case has two runs of one engine on one kind of device in "
            f"{', '.join(map(str, named)) or 'no folder'}; there are runs of: {names}"
        )
    for text in history_lines(lines):
        print(text)
    if found.unreadable:
        print(
            f"{len(found.unreadable)} Records could not be read, the first: {found.unreadable[0]}"
        )
