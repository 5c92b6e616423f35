"""`parity cases`: the cases that are configured."""

from __future__ import annotations


def cases() -> None:
    """List the cases, and where each is from."""
    from rich.console import Console
    from rich.table import Table

    from harness.config.compose import case_origins, load

    table = Table(box=None)
    for column in ("case", "kind", "dtype", "mesh", "from", "what it is"):
        # A name that is cut cannot be copied into case=NAME.
        table.add_column(column, no_wrap=column == "case", overflow="fold")
    for name, origin in case_origins().items():
        case = load([f"case={name}"]).case
        mesh = " × ".join(f"{axis} {size}" for axis, size in case.mesh.items())
        table.add_row(name, case.kind, case.dtype, mesh, origin, case.description)
    Console().print(table)
