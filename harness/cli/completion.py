"""What the shell completes: overrides by the configurations that there are, engines, rungs."""

from __future__ import annotations

from harness.base.errors import BadInput

KEYS = ("engines=[", "case.steps=", "case.dtype=", "tolerance.step_time=", "workspace=")
"""Keys that are often wanted, beside the groups that have a file for each choice."""


def override(incomplete: str) -> list[str]:
    """Overrides that begin so: `case=` and every other group with its choices."""
    from harness.config.folders import config_folders

    try:
        files = [name for folder in config_folders() for name in folder.files]
    except BadInput:
        return []
    chosen = ["=".join(name.split("/")) for name in files if name.count("/") == 1]
    return [word for word in (*sorted(chosen), *KEYS) if word.startswith(incomplete)]


def rung(incomplete: str) -> list[str]:
    """Rungs, of a list with commas the last."""
    from harness.ladder.ladder import names

    before, comma, last = incomplete.rpartition(",")
    return [f"{before}{comma}{name}" for name in names() if name.startswith(last)]
