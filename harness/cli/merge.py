"""`parity merge`: one Record of a run that was launched on several hosts by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def merge(
    target: Annotated[Path, typer.Argument(help="folder of the merged Record; it is created")],
    hosts: Annotated[list[Path], typer.Argument(help="folders of the hosts' Records")],
) -> None:
    """Merge the Records of a run that `parity run` launched on every host of a TPU pod slice.

    Exits with 1 where the hosts disagree; the merged Record says so too.
    """
    from harness.launchers.merge_hosts import merge_records
    from harness.record.hosts import host_findings

    found = host_findings(merge_records(hosts, target))
    for line in found:
        print(line)
    raise typer.Exit(1 if found else 0)
