"""`parity cases`: the cases that are configured, and which engines train them."""

from __future__ import annotations

from harness.cli.listing import print_list
from harness.cli.options import Overrides, Torchprime, overrides_of


def cases(overrides: Overrides = None, torchprime: Torchprime = None) -> None:
    """List the cases, where each is from, which engines train it, and why others do not.

    Of each cell that `parity matrix` trains it tells what came of it, by the workspace.

    parity cases case.dtype=bfloat16 asks it of every case in bfloat16.
    """
    from harness.config.compose import case_origins, load
    from harness.config.matrix import matrix_names, read_matrix
    from harness.ladder.matrix import by_cell
    from harness.run.matrix import kept_entries
    from harness.run.trained_by import refusals

    words = overrides_of(overrides, torchprime)
    entries = []
    kept = [
        e for matrix in sorted(matrix_names()) for e in kept_entries(read_matrix(matrix), words)
    ]
    for name, origin in case_origins().items():
        settings = load([f"case={name}", *words])
        case = settings.case
        mesh = " × ".join(f"{axis} {size}" for axis, size in case.mesh.items())
        facts = f"{case.kind}, {case.dtype}, mesh {mesh}, from {origin}"
        found = refusals(settings)
        able = [engine for engine, reason in found.items() if reason is None]
        trained = f"trained by {', '.join(able) or 'no engine'}"
        refused = [f"not by {engine}: {reason}" for engine, reason in found.items() if reason]
        entries.append((name, (case.description, facts, trained, *refused, *by_cell(kept, name))))
    print_list(entries)
