"""`parity cases`: the cases that are configured."""

from __future__ import annotations


def cases() -> None:
    """List the cases: configs/case/*.yaml."""
    from rich.console import Console
    from rich.table import Table

    from harness.config.compose import case_names, load

    table = Table("case", "kind", "dtype", "mesh", "what it is", box=None)
    for name in case_names():
        case = load([f"case={name}"]).case
        mesh = " × ".join(f"{axis} {size}" for axis, size in case.mesh.items())
        table.add_row(name, case.kind, case.dtype, mesh, case.description)
    Console().print(table)
