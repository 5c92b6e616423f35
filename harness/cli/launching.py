"""Commands about launching: `parity use`, `parity command`, `parity merge`."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer
import yaml
from rich.console import Console

from harness.base.errors import BadInput
from harness.launchers.saved import SAVED, config_file
from harness.record import files as record


def use(
    cluster: Annotated[str, typer.Option(help="GKE cluster that `xpk cluster create` made")],
    project: Annotated[str, typer.Option(help="Google Cloud project of the cluster")],
    zone: Annotated[str, typer.Option(help="its zone, such as us-east5-b")],
    tpu_type: Annotated[str, typer.Option(help="TPU of one slice, such as v6e-256")],
    artifact_dir: Annotated[str, typer.Option(help="folder in a bucket: gs://BUCKET/FOLDER")],
    num_slices: Annotated[int, typer.Option(help="number of slices")] = 1,
    priority: Annotated[
        str, typer.Option(help="very-low, low, medium, high, very-high")
    ] = "medium",
    namespace: Annotated[str, typer.Option(help="Kubernetes namespace")] = "default",
    secret: Annotated[
        str | None, typer.Option(help="Kubernetes Secret whose keys become variables of the runs")
    ] = None,
    registry: Annotated[
        str | None, typer.Option(help="where images are pushed; gcr.io/PROJECT by default")
    ] = None,
    image: Annotated[str | None, typer.Option(help="an image to run in, never built")] = None,
) -> None:
    """Remember the cluster that launcher=xpk runs on.

    parity use --cluster tpus --project my-project --zone us-east5-b --tpu-type v6e-256
    --artifact-dir gs://my-bucket/parity
    """
    from harness.launchers.xpk import XpkOptions

    values = {name: value for name, value in locals().items() if name in SAVED}
    kept = {name: value for name, value in values.items() if value is not None}
    XpkOptions(**kept).checked()
    if not artifact_dir.startswith("gs://"):
        raise BadInput(f"--artifact-dir {artifact_dir}: it is in a bucket, gs://BUCKET/FOLDER")
    path = config_file()
    path.parent.mkdir(parents=True, exist_ok=True)
    record.write_text(path, yaml.safe_dump(kept, sort_keys=False))
    Console().print(
        f"launcher=xpk runs on {cluster} ({tpu_type} × {num_slices}) from now on: {path}",
        markup=False, highlight=False, soft_wrap=True,
    )  # fmt: skip


def command(
    overrides: Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]...")] = None,
) -> None:
    """Print the command line of each engine's run, and run none.

    parity command launcher=docker case=llama-tiny
    """
    from harness.config.compose import load
    from harness.launchers.registry import choose
    from harness.report.progress import ConsoleReporter
    from harness.run import session
    from harness.run.execute import placed, run_of
    from harness.run.workspace import slot

    settings = load(list(overrides or []))
    reporter = ConsoleReporter(Console(stderr=True))
    launcher = choose(settings.launcher, reporter.note)
    for subject in session.plan(settings, reporter).subjects:
        plan = placed(subject, launcher)
        place = slot(Path(settings.workspace), plan.case.name, plan.engine, plan.key)
        print(f"# {plan.label}")
        for argv in launcher.commands(run_of(plan, place)):
            print(shlex.join(argv))


def merge(
    target: Annotated[Path, typer.Argument(help="folder of the merged Record; made")],
    hosts: Annotated[list[Path], typer.Argument(help="folders of the hosts' Records")],
) -> None:
    """Merge the Records of a run that `parity run` launched on every host of a TPU pod slice.

    Exits with 1 where the hosts disagree; the merged Record says so as well.
    """
    from harness.launchers.merge_hosts import merge_records
    from harness.record.hosts import host_findings

    found = host_findings(merge_records(hosts, target))
    for line in found:
        print(line)
    raise typer.Exit(1 if found else 0)


def register(app: typer.Typer) -> None:
    """Add these commands to the command line."""
    for function in (use, command, merge):
        app.command()(function)
