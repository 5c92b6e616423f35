"""`parity train hf` and `parity train torchprime`: one side alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from harness.cli.options import progress

if TYPE_CHECKING:
    from rich.console import Console

    from harness.base.progress import Progress
    from harness.record.evidence import Record
    from harness.train.request import TrainingPlan
    from harness.train.settings import Training

app = typer.Typer(
    no_args_is_help=True,
    help="Train one side alone, watched; its curves go to TensorBoard.",
)


HfOverrides = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[KEY=VALUE]...",
        help="Hydra overrides of configs/train/hf.yaml, such as workload=llama-3.0-8b-tiny, "
        "source=PATH, output_dir=PATH, train_script.args.max_steps=20, "
        "+train_script.args.report_to=tensorboard",
        show_default=False,
    ),
]
TorchprimeOverrides = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[KEY=VALUE]...",
        help="torchprime's own Hydra overrides, such as model=llama-3-8b or task.max_steps=20, and "
        "source=, python=, output_dir=, run_name=, workload=, launcher.device= of configs/train",
        show_default=False,
    ),
]


@app.command()
def hf(overrides: HfOverrides = None) -> None:
    """Train by the Hugging Face Trainer: `run_clm.py` of any transformers.

    Its arguments are train_script.args.*: null drops one, + adds one. The script is asked which it
    takes before anything is launched.

    parity train hf workload=llama-3.0-8b-tiny

    parity train hf source=./transformers train_script.args.max_steps=150
    """
    from harness.train import hf as side
    from harness.train.settings import load_hf

    training = load_hf(list(overrides or []))
    _train(side.plan, training)


@app.command()
def torchprime(overrides: TorchprimeOverrides = None) -> None:
    """Train by torchprime's train.py, with its own Hydra overrides.

    parity train torchprime workload=llama-3.0-8b-tiny

    parity train torchprime source=./torchprime model=llama-3-8b task.max_steps=20
    """
    from harness.train import torchprime as side
    from harness.train.settings import load_torchprime

    training = load_torchprime(list(overrides or []))
    _train(side.plan, training)


def _train(plan: Callable[[Any, Progress], TrainingPlan], training: Training) -> NoReturn:
    """Plan, train, say where the curves are, and exit by how it ended."""
    from rich.console import Console

    from harness.train.request import train

    reporter = progress()
    try:
        side = plan(training, reporter.note)
        console = Console()
        origin = side.plan.origin["description"]
        _say(console, f"{side.plan.label}: {origin}", "bold")
        for line in side.notes:
            _say(console, line, "yellow")
        record = train(side, training, reporter)
    finally:
        reporter.close()
    for line in summary(record):
        _say(console, line, "green" if record.complete else "red")
    raise typer.Exit(0 if record.complete else 1)


def summary(record: Record) -> list[str]:
    """What a person wants to know of a run that has ended."""
    losses = [step.loss for step in record.steps if step.loss is not None]
    curve = f", loss {losses[0]:.6g} to {losses[-1]:.6g}" if losses else ""
    lines = [f"{record.trained_steps} of {record.requested_steps} steps trained{curve}"]
    if not record.complete:
        lines += [f"it {record.ended.status}: {record.ended.reason}"]
        lines += [f"  {line}" for line in record.ended.log]
    dtype = record.case.dtype
    if others := sorted({p.dtype for p in record.parameters} - {dtype}):
        lines.append(
            f"{dtype} was asked for, but parameters are {', '.join(others)}: this script does not "
            "use its dtype for a new model"
        )
    lines.append(f"Record: {record.directory}")
    if losses:
        lines.append(f"curves: tensorboard --logdir {record.directory.parent}")
    return lines


def _say(console: Console, line: str, style: str) -> None:
    console.print(line, style=style, markup=False, highlight=False, soft_wrap=True)
