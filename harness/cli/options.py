"""Arguments and options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from harness.base.errors import BadInput
from harness.cli import completion
from harness.report.files import STDOUT, check_writable

if TYPE_CHECKING:
    from harness.report.progress import ConsoleReporter


def writable(context: typer.Context, option: typer.CallbackParam, file: Path | None) -> Path | None:
    if file is not None:
        check_writable(option.opts[0], file)
    if file == STDOUT and STDOUT in context.params.values():
        raise BadInput(f"{option.opts[0]} -: the standard output cannot take both reports")
    return file


Overrides = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[KEY=VALUE]...",
        autocompletion=completion.override,
        help="Hydra overrides of the configuration, such as case=llama-tiny, "
        "engines=[hf,reference], case.dtype=bfloat16 or case.steps=40",
        show_default=False,
    ),
]
GateOverrides = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[KEY=VALUE]...",
        autocompletion=completion.override,
        help="Hydra overrides for every case, such as case.steps=40 or workspace=DIR",
        show_default=False,
    ),
]
Torchprime = Annotated[
    str | None,
    typer.Option(
        "--torchprime",
        metavar="SOURCE",
        help="torchprime checkout, or a git URL with a ref; also TORCHPRIME_DIR",
        show_default=False,
    ),
]
Verbose = Annotated[
    bool,
    typer.Option(
        "--verbose",
        "-v",
        help="every rung with its numbers; of `parity run`, also where the seconds went",
    ),
]
Cases = Annotated[
    str,
    typer.Option(
        "--cases", metavar="NAMES", help="cases, separated by commas; smoke, or all aligned ones"
    ),
]
Baselines = Annotated[
    Path, typer.Option("--baselines", metavar="DIR", help="folder of the stored baselines")
]
Json = Annotated[
    Path | None,
    typer.Option(
        "--json", metavar="FILE", callback=writable,
        help="write the whole verdict for other programs",
    ),
]  # fmt: skip
Html = Annotated[
    Path | None,
    typer.Option(
        "--html", metavar="FILE", callback=writable,
        help="write a self-contained report with the curves",
    ),
]  # fmt: skip

Junit = Annotated[
    Path | None,
    typer.Option(
        "--junit", metavar="FILE", callback=writable,
        help="write a test for each rung, as CI systems list them",
    ),
]  # fmt: skip

BASELINES = Path("baselines")


def overrides_of(overrides: list[str] | None, torchprime: str | None = None) -> list[str]:
    """The Hydra overrides of a command line, with `--torchprime` among them where it is given.

    `--torchprime SOURCE` (pytest: `--parity-torchprime`) is short for
    `engine.torchprime.source=SOURCE`: the only option of one engine, as this is its harness.
    """
    words = list(overrides or [])
    if torchprime is not None:
        from harness.config.overrides import quoted

        words.append(f"engine.torchprime.source={quoted(torchprime)}")
    return words


def progress() -> ConsoleReporter:
    """A reporter that shows progress on stderr. The command closes it."""
    from rich.console import Console

    from harness.report.progress import ConsoleReporter

    return ConsoleReporter(Console(stderr=True))
