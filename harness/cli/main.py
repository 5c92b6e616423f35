"""`parity`: the application, its commands and its exit codes.

Exit codes: 0 pass, 1 fail, 2 bad input, 3 invalid or inconclusive, 4 ended by this machine
(disk full, output closed) or by a defect of the harness, 130 interrupted.
"""

from __future__ import annotations

import contextlib
import errno
import gc
import locale
import os
import sys
from typing import Annotated, Any

import typer

from harness import __version__
from harness.base.crash import CRASHED, crashed
from harness.base.errors import BadInput
from harness.base.users import CONFIGS_VARIABLE
from harness.cli.bisect import bisect
from harness.cli.bless import bless
from harness.cli.calibrate import calibrate
from harness.cli.cases import cases
from harness.cli.command import command
from harness.cli.compare import compare
from harness.cli.doctor import doctor
from harness.cli.engines import engines
from harness.cli.errors import print_error
from harness.cli.gate import gate
from harness.cli.history import history
from harness.cli.import_ import import_
from harness.cli.matrix import matrix
from harness.cli.merge import merge
from harness.cli.report import report
from harness.cli.run import run
from harness.cli.signals import ignore_signals, signals_interrupt
from harness.cli.train import app as train
from harness.cli.use import use

app = typer.Typer(
    name="parity",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",  # the other mode takes [hf,reference] for a tag, and drops it
    context_settings={"help_option_names": ["-h", "--help"]},  # subcommands inherit them
)

COMPLETION = "_PARITY_COMPLETE"
"""The variable by which a shell asks for completions."""

USAGE_ERROR: Any = next(
    kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException"
)
"""What a wrong option raises. Where Click is, whose class it is, depends on Typer's release."""

COMMANDS = (
    run, matrix, compare, report, history, import_, gate, bless, bisect, calibrate, cases, engines,
    doctor, command, use, merge,
)  # fmt: skip
"""In the order of `parity --help`; `parity train` is a group of two."""

for function in COMMANDS:
    app.command(function.__name__.rstrip("_"))(function)
app.add_typer(train, name="train")


def _use_configs(folder: str | None) -> None:
    if folder is not None:
        os.environ[CONFIGS_VARIABLE] = folder


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
            help="folder with cases and engines of your own; also PARITY_CONFIGS. ./parity_cases "
            "is used without it",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Do two trainers train the same model the same way, at the same speed?"""


def main() -> None:
    """Entry point of `parity`."""
    if COMPLETION in os.environ:
        app()  # Typer answers the shell, and exits
    _read_utf8()
    # Imports allocate some 100,000 objects, none of them garbage: no collection while they load.
    gc.set_threshold(100_000)
    code = exit_code(sys.argv[1:])
    gc.freeze()  # the collection at interpreter shutdown takes 0.15 s
    sys.exit(code)


def _read_utf8() -> None:
    """Start again in Python's UTF-8 mode where the locale has another encoding.

    Every file here is UTF-8, whatever the locale says. What is launched inherits the mode.
    """
    if not sys.flags.utf8_mode and locale.getencoding().lower() not in ("utf-8", "utf8"):
        os.environ["PYTHONUTF8"] = "1"
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def exit_code(arguments: list[str]) -> int:
    """Run the command that is named. Whatever ends it is told on stderr, in one paragraph.

    Typer's own way to do this exits with 1, which is FAIL, where nobody reads the output any more,
    and says nothing after Ctrl-C.
    """
    try:
        return _run(arguments)
    except USAGE_ERROR as error:
        from typer.rich_utils import rich_format_error

        # Where stderr cannot be written there is nobody to tell: see `print_error`.
        with contextlib.suppress(OSError, SystemExit):
            rich_format_error(error)
        return int(error.exit_code)
    except BadInput as error:
        print_error(f"error: {error}")
        return 2
    except KeyboardInterrupt:
        ignore_signals()
        print_error("interrupted; nothing was left running")
        return 130
    except SystemExit:
        # No command of ours raises it: Rich does where a pipe is closed (Console.on_broken_pipe).
        print_error(crashed(BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))))
        return CRASHED
    except Exception as error:
        print_error(crashed(error))
        return CRASHED
    finally:
        _abandon_output()


def _run(arguments: list[str]) -> int:
    command, code = typer.main.get_command(app), 0
    with signals_interrupt():
        try:
            with command.make_context("parity", arguments) as context:
                command.invoke(context)
        except typer.Exit as end:
            code = end.exit_code
        if sys.stdout is not None:  # it was closed before this began
            sys.stdout.flush()  # what cannot be written is to be known now
    return code


def _abandon_output() -> None:
    """Python would exit with a code of its own where what is buffered cannot be written."""
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:
                stream.flush()
        except (OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


if __name__ == "__main__":
    main()
