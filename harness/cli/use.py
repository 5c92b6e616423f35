"""`parity use`: the cluster of launcher=xpk, stored once."""

from __future__ import annotations

from typing import Annotated

import typer

from harness.base.errors import BadInput
from harness.base.files import write_text


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
    """Store the cluster that launcher=xpk runs on.

    parity use --cluster tpus --project my-project --zone us-east5-b --tpu-type v6e-256
    --artifact-dir gs://my-bucket/parity
    """
    values = dict(locals())
    import yaml
    from rich.console import Console

    from harness.launchers.saved import SAVED, config_file
    from harness.launchers.xpk import XpkOptions

    kept = {name: values[name] for name in SAVED if values[name] is not None}
    XpkOptions(**kept).checked()
    if not artifact_dir.startswith("gs://"):
        raise BadInput(f"--artifact-dir {artifact_dir}: it is in a bucket, gs://BUCKET/FOLDER")
    path = config_file()
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, yaml.safe_dump(kept, sort_keys=False))
    Console().print(
        f"launcher=xpk runs on {cluster} ({tpu_type} × {num_slices}) from now on: {path}",
        markup=False, highlight=False, soft_wrap=True,
    )  # fmt: skip
