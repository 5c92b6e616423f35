"""`parity import`: a Record of what was not launched here."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated

import typer

from harness.base.errors import BadInput
from harness.base.text import printable
from harness.cli import completion


def import_(
    source: Annotated[
        str,
        typer.Argument(help="file or folder that a trainer wrote; also gs://, s3:// or hf://"),
    ],
    label: Annotated[
        str | None,
        typer.Option("--label", metavar="NAME", help="what to call the run", show_default=False),
    ] = None,
    case: Annotated[
        str, typer.Option("--case", metavar="NAME", help="what to call what was trained")
    ] = "imported",
    dtype: Annotated[
        str | None,
        typer.Option("--dtype", help="dtype of the weights, where nothing tells it",
                     show_default=False),
    ] = None,
    steps: Annotated[
        int | None,
        typer.Option("--steps", min=1, help="optimizer steps that were asked for, where nothing "
                     "tells it", show_default=False),
    ] = None,
    assume: Annotated[
        str,
        typer.Option("--assume", metavar="RUNGS", autocompletion=completion.rung,
                     help="rungs that hold, by your word, though nothing here shows it: data,init",
                     show_default=False),
    ] = "",
    workspace: Annotated[
        Path, typer.Option("--workspace", metavar="DIR", help="where Records are kept")
    ] = Path("workspace"),
) -> None:  # fmt: skip
    """Make a Record of logs, metrics or event files: of a Trainer, torchprime, MaxText, torchtitan.

    What such evidence cannot show (weights, batches, sharding) is not proven: the rungs that rest
    on it are INVALID, unless they are assumed by name, which every output repeats.

    Examples:

    parity import out/trainer_state.json --label hf --assume data,init

    parity import gs://my-bucket/run/logs --case llama-8b --dtype bfloat16

    parity compare workspace/llama-8b/hf-… workspace/llama-8b/torchprime-…
    """

    from harness.importing.fetch import fetch
    from harness.importing.make import Stated, make_record

    stated = Stated(label, case, dtype, steps, _rungs(assume))
    with tempfile.TemporaryDirectory(prefix="parity-import-") as folder:
        record = make_record(fetch(source, Path(folder)), source, workspace, stated)
    imported = record.manifest.imported
    assert imported is not None
    _say("read", imported.sources)
    _say("noticed", imported.findings)
    _say("assumed, not proven", imported.assumed)
    print(f"{record.label}: {record.trained_steps} of {record.requested_steps} steps")
    print(f"Record: {record.directory}")


def _rungs(text: str) -> tuple[str, ...]:
    from harness.ladder.ladder import names

    named = tuple(dict.fromkeys(filter(None, (part.strip() for part in text.split(",")))))
    for name in named:
        if name not in names():
            raise BadInput(f"--assume {name}: it is no rung; the rungs are {', '.join(names())}")
    return named


def _say(title: str, lines: tuple[str, ...]) -> None:
    for line in lines:
        print(f"{title}: {printable(line)}")
