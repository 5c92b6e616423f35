"""`parity train hf` and `parity train torchprime`: one side alone."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from harness.base.errors import BadInput
from harness.base.text import printable
from harness.cli.errors import print_error
from harness.cli.options import progress

if TYPE_CHECKING:
    from rich.console import Console

    from harness.base.progress import Progress
    from harness.record.evidence import Record
    from harness.train.request import TrainingPlan
    from harness.train.settings import Training
    from harness.train.watching import Watched

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


DryRun = Annotated[
    bool,
    typer.Option("--dry-run", help="print the command lines that the launcher would run, and end"),
]
Name = Annotated[
    str | None,
    typer.Option("--name", metavar="NAME", help="run_name=NAME, and that of the workload on a "
                 "cluster", show_default=False),
]  # fmt: skip
Comment = Annotated[
    str | None,
    typer.Option("--comments", metavar="TEXT", help="comment=TEXT: what the run is for",
                 show_default=False),
]  # fmt: skip
Interactive = Annotated[
    bool,
    typer.Option("--interactive", "-i", help="train again whenever the source is edited"),
]
UseHf = Annotated[bool, typer.Option("--use-hf", hidden=True)]
"""As `tp run` has it: whoever comes from there is told what it is here."""


@app.command()
def hf(
    overrides: HfOverrides = None,
    name: Name = None,
    comments: Comment = None,
    interactive: Interactive = False,
    dry_run: DryRun = False,
    use_hf: UseHf = False,
) -> None:
    """Train by the Hugging Face Trainer: `run_clm.py` of any transformers.

    Its arguments are train_script.args.*: null drops one, + adds one. The script is asked which it
    takes before anything is launched.

    parity train hf workload=llama-3.0-8b-tiny

    parity train hf source=./transformers train_script.args.max_steps=150
    """
    from harness.train import hf as side
    from harness.train.settings import load_hf

    _check_use_hf(use_hf)
    training = load_hf(list(overrides or []))
    _train(side.plan, _named(training, name, comments), dry_run, interactive)


@app.command()
def torchprime(
    overrides: TorchprimeOverrides = None,
    config_name: Annotated[
        str, typer.Option("--config-name", metavar="NAME", help="torchprime's configuration")
    ] = "default",
    name: Name = None,
    comments: Comment = None,
    interactive: Interactive = False,
    dry_run: DryRun = False,
    use_hf: UseHf = False,
) -> None:
    """Train by torchprime's train.py, with its own Hydra overrides.

    parity train torchprime workload=llama-3.0-8b-tiny

    parity train torchprime source=./torchprime model=llama-3-8b task.max_steps=20
    """
    from harness.train import torchprime as side
    from harness.train.settings import load_torchprime

    _check_use_hf(use_hf)
    training = load_torchprime(list(overrides or []), config_name.removesuffix(".yaml"))
    _train(side.plan, _named(training, name, comments), dry_run, interactive)


def _check_use_hf(used: bool) -> None:
    if used:
        raise BadInput(
            "--use-hf: `parity train hf` is what `tp run --use-hf` was. Leave it out, and the path "
            "of the script too, or name another one by train_script.path=FILE"
        )


def _named(training: Training, name: str | None, comment: str | None) -> Training:
    """The training by the words of `tp run`; on a cluster its workload has them too.

    Raises BadInput for a name that no folder can have.
    """
    from harness.train.settings import checked

    name, comment = name or training.run_name, comment or training.comment
    launcher = training.launcher
    if launcher.name == "xpk":
        given = {"workload": name, "comment": comment}
        options = {**launcher.options, **{k: v for k, v in given.items() if v is not None}}
        launcher = dataclasses.replace(launcher, options=options)
    return checked(dataclasses.replace(training, run_name=name, comment=comment, launcher=launcher))


Plans = Callable[[Any, "Progress"], "TrainingPlan"]


def _train(plan: Plans, training: Training, dry_run: bool, interactive: bool) -> NoReturn:
    """Train, and exit by how it ended; where that is asked for, again for each edit until Ctrl-C.

    What cannot be trained the first time is bad input. What an edit makes of it later, such as a
    line that is half written, is said, and waits for the next edit.
    """
    if not interactive or dry_run:
        good = _once(plan, training, dry_run)
        raise typer.Exit(0 if good else 1)
    if training.run_name is not None:
        raise BadInput(
            f"run_name={training.run_name}: --interactive trains more than once, and two runs have "
            "two names: leave it out, and each is named by the time"
        )
    code: list[Watched] = []
    _once(plan, training, False, code.append)
    (watched,) = code
    while True:
        typer.echo(f"waiting for an edit in {watched}; Ctrl-C ends it")
        typer.echo(f"{watched.edited()} was edited")
        watched = watched.now()
        try:
            _once(plan, training, False)
        except BadInput as error:
            print_error(f"error: {error}")


def _once(
    plan: Plans,
    training: Training,
    dry_run: bool,
    watch: Callable[[Watched], None] | None = None,
) -> bool:
    """Plan, train, say where the curves are; whether it ended well.

    watch: told of the code as it was before it was trained
    """
    from rich.console import Console

    from harness.train.request import commands, output_folder, train
    from harness.train.watching import Watched

    reporter = progress()
    try:
        side = plan(training, reporter.note)
        if watch is not None:
            script = side.plan.origin.get("script")
            named = None if script is None else Path(script["path"])
            watch(Watched.of(side.plan.source, output_folder(training), named))
        console = Console()
        origin = side.plan.origin["description"]
        _say(console, f"{side.plan.label}: {origin}", "bold")
        for line in side.notes:
            _say(console, line, "yellow")
        if dry_run:
            for argv in commands(side, training, reporter):
                typer.echo(shlex.join(argv))
            return True
        record = train(side, training, reporter)
    finally:
        reporter.close()
    for line in summary(record):
        _say(console, line, "green" if record.complete else "red")
    return record.complete


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
    console.print(printable(line), style=style, markup=False, highlight=False, soft_wrap=True)
