"""`parity`: the application, its commands and its exit codes.

Exit codes: 0 pass, 1 fail, 2 bad input, 3 invalid or inconclusive, 4 a defect of the harness
itself, 130 interrupted.
"""

from __future__ import annotations

import gc
import os
import sys
from typing import Annotated

import typer

from harness import __version__
from harness.base.crash import CRASHED, crashed
from harness.base.errors import BadInput
from harness.cli.bisect import bisect
from harness.cli.bless import bless
from harness.cli.cases import cases
from harness.cli.command import command
from harness.cli.compare import compare
from harness.cli.doctor import doctor
from harness.cli.engines import engines
from harness.cli.gate import gate
from harness.cli.import_ import import_
from harness.cli.merge import merge
from harness.cli.report import report
from harness.cli.run import run
from harness.cli.signals import signals_interrupt
from harness.cli.train import app as train
from harness.cli.use import use

app = typer.Typer(
    name="parity",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",  # the other mode takes [hf,reference] for a tag, and drops it
    context_settings={"help_option_names": ["-h", "--help"]},  # subcommands inherit them
)

COMMANDS = (
    run, compare, report, import_, gate, bless, bisect, cases, engines, doctor, command, use, merge,
)  # fmt: skip
"""In the order of `parity --help`; `parity train` is a group of two."""

for function in COMMANDS:
    app.command(function.__name__.rstrip("_"))(function)
app.add_typer(train, name="train")


def _use_configs(folder: str | None) -> None:
    if folder is not None:
        from harness.config.folders import VARIABLE

        os.environ[VARIABLE] = folder


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"parity-harness {__version__}")
        raise typer.Exit


@app.callback()
def parity(
    version: Annotated[
        bool,
        typer.Option(
            "--version", is_eager=True, callback=_print_version, help="Show the version and exit."
        ),
    ] = False,
    configs: Annotated[
        str | None,
        typer.Option(
            "--configs",
            metavar="DIR",
            callback=_use_configs,
            help="folder with cases of your own; also PARITY_CONFIGS. ./parity_cases is used "
            "without it",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Do two trainers train the same model the same way, at the same speed?"""


def main() -> None:
    """Entry point of `parity`."""
    # Imports allocate some 100,000 objects, none of them garbage: no collection while they load.
    gc.set_threshold(100_000)
    try:
        with signals_interrupt():
            app()
    except BadInput as error:
        _print_error(f"error: {error}")
        sys.exit(2)
    except Exception as error:
        _print_error(crashed(error))
        sys.exit(CRASHED)
    except KeyboardInterrupt:
        _print_error("interrupted; nothing was left running")
        sys.exit(130)
    finally:
        gc.freeze()  # the collection at interpreter shutdown takes 0.15 s


def _print_error(text: str) -> None:
    from rich.console import Console

    Console(stderr=True).print(text, style="red", markup=False, highlight=False)


if __name__ == "__main__":
    main()
