"""The command line: `parity run`, `compare`, `cases`, `engines`, `doctor` and more.

Exit codes: 0 pass, 1 fail, 2 bad input, 3 invalid or inconclusive, 130 interrupted.
"""

from __future__ import annotations

import gc
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from harness.base.errors import BadInput
from harness.cli import gate as gating
from harness.cli import launching
from harness.cli.options import Html, Json
from harness.cli.signals import interrupt_when_ended
from harness.cli.train import app as train

app = typer.Typer(
    name="parity",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",  # the other mode takes [hf,reference] for a tag, and drops it
    help="Do two trainers train the same model the same way, at the same speed?",
)
app.add_typer(train, name="train")
launching.register(app)
gating.register(app)

Overrides = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[KEY=VALUE]...",
        help="Hydra overrides of the configuration, such as case=llama-tiny, "
        "engines=[hf,reference], case.dtype=bfloat16 or case.steps=40",
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


@app.command()
def run(
    overrides: Overrides = None,
    torchprime: Torchprime = None,
    json_file: Json = None,
    html: Html = None,
) -> None:
    """Train a case in every engine, and print the ladder.

    An unchanged run is taken from the workspace and not launched again.

    Examples:

    parity run case=llama-tiny

    parity run engines=[hf,reference] case.dtype=bfloat16 case.steps=40

    parity run --torchprime ~/torchprime case=llama-tiny-as-shipped
    """
    from harness.cli.output import end
    from harness.config.compose import load
    from harness.report.progress import ConsoleReporter
    from harness.run import session

    words = list(overrides or [])
    if torchprime is not None:
        words.append(f"engine.torchprime.source='{torchprime}'")
    settings = load(words)
    reporter = ConsoleReporter(Console(stderr=True))
    try:
        planned = session.plan(settings, reporter)
        reporter.note(planned.compared)
        outcome = session.run(planned, reporter)
    finally:
        reporter.close()
    end(outcome, json_file, html)


@app.command()
def compare(
    a: Annotated[Path, typer.Argument(help="folder of the first Record")],
    b: Annotated[Path, typer.Argument(help="folder of the second Record")],
    overrides: Overrides = None,
    json_file: Json = None,
    html: Html = None,
) -> None:
    """Judge two Records again, without launching anything."""
    from harness.cli.output import end
    from harness.config.compose import load
    from harness.record.files import read_record
    from harness.run import session

    tolerance = load(list(overrides or [])).tolerance
    end(session.compare(read_record(a), read_record(b), tolerance), json_file, html)


@app.command()
def cases() -> None:
    """List the cases: configs/case/*.yaml."""
    from rich.table import Table

    from harness.config.compose import case_names, load

    table = Table("case", "kind", "dtype", "mesh", "what it is", box=None)
    for name in case_names():
        case = load([f"case={name}"]).case
        mesh = " × ".join(f"{axis} {size}" for axis, size in case.mesh.items())
        table.add_row(name, case.kind, case.dtype, mesh, case.description)
    Console().print(table)


@app.command()
def engines(torchprime: Torchprime = None) -> None:
    """List the engines: what there is, and what is missing and how to get it."""
    from harness.cli.doctor import engines_table

    Console().print(engines_table(torchprime))


@app.command()
def doctor(torchprime: Torchprime = None) -> None:
    """Check this machine: interpreter, devices, sources, and how to get what is missing."""
    from harness.cli.doctor import diagnose

    raise typer.Exit(diagnose(Console(), torchprime))


def main() -> None:
    """Entry point of `parity`."""
    # Imports make a hundred thousand objects, and no garbage among them that is worth a search.
    gc.set_threshold(100_000)
    interrupt_when_ended()
    try:
        app()
    except BadInput as error:
        Console(stderr=True).print(f"error: {error}", style="red", markup=False, highlight=False)
        sys.exit(2)
    except KeyboardInterrupt:
        Console(stderr=True).print("interrupted; nothing was left running", style="red")
        sys.exit(130)
    finally:
        # Python would look for garbage in all that was imported before it ends: 0.15 s for nothing.
        gc.freeze()


if __name__ == "__main__":
    main()
