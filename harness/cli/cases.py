"""`parity cases`: the cases that are configured, and which engines train them."""

from __future__ import annotations

from harness.cli.options import Torchprime


def cases(torchprime: Torchprime = None) -> None:
    """List the cases, where each is from, which engines train it, and why others do not."""
    from harness.cli.listing import print_list
    from harness.config.compose import case_origins, load
    from harness.run.trained_by import refusals

    entries = []
    for name, origin in case_origins().items():
        case = load([f"case={name}"]).case
        mesh = " × ".join(f"{axis} {size}" for axis, size in case.mesh.items())
        facts = f"{case.kind}, {case.dtype}, mesh {mesh}, from {origin}"
        found = refusals(case, {"torchprime": torchprime})
        able = [engine for engine, reason in found.items() if reason is None]
        trained = f"trained by {', '.join(able) or 'no engine'}"
        refused = [f"not by {engine}: {reason}" for engine, reason in found.items() if reason]
        entries.append((name, (case.description, facts, trained, *refused)))
    print_list(entries)
