"""`parity cases`: the cases that are configured."""

from __future__ import annotations


def cases() -> None:
    """List the cases: configs/case/*.yaml."""
    from rich.console import Console
    from rich.table import Table

    from harness.config.compose import case_names, load

    table = Table(box=None)
    for column in ("case", "kind", "dtype", "mesh", "what it is"):
        # A name that is cut cannot be copied into case=NAME.
        table.add_column(column, no_wrap=column == "case", overflow="fold")
    for name in case_names():
        case = load([f"case={name}"]).case
        mesh = " × ".join(f"{axis} {size}" for axis, size in case.mesh.items())
        table.add_row(name, case.kind, case.dtype, mesh, case.description)
    Console().print(table)
