"""The user's own folder: configurations, and whatever else extends the harness, as plain files."""

from __future__ import annotations

import os
from pathlib import Path

from harness.base.files import expanded

CONFIGS_VARIABLE = "PARITY_CONFIGS"
"""Names the user's folder; so does `parity --configs`."""

USERS = Path("parity_cases")
"""The user's folder, in the current one, where none is named."""


def named_folder() -> str | None:
    """The folder that is named, as it is; None where none is."""
    return os.environ.get(CONFIGS_VARIABLE) or None


def users_folder() -> Path | None:
    """The user's folder; None where there is none, and where the one that is named is not there."""
    named = named_folder()
    path = expanded(named) if named else USERS
    return path if path.is_dir() else None
