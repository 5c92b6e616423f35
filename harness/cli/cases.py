"""`parity cases`: the cases that are configured."""

from __future__ import annotations


def cases() -> None:
    """List the cases, and where each is from."""
    from harness.cli.listing import print_list
    from harness.config.compose import case_origins, load

    entries = []
    for name, origin in case_origins().items():
        case = load([f"case={name}"]).case
        mesh = " × ".join(f"{axis} {size}" for axis, size in case.mesh.items())
        facts = f"{case.kind}, {case.dtype}, mesh {mesh}, from {origin}"
        entries.append((name, (case.description, facts)))
    print_list(entries)
