"""What `parity use` keeps for launcher=xpk."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import yaml

from harness.base.errors import BadInput

SAVED = (
    "cluster", "project", "zone", "tpu_type", "num_slices", "priority", "artifact_dir",
    "namespace", "secret", "registry", "image",
)  # fmt: skip


def config_file() -> Path:
    """Where `parity use` keeps what it was told."""
    home = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
    return Path(home) / "parity-harness" / "xpk.yaml"


def saved() -> dict[str, Any]:
    """What `parity use` was told, as `launcher.options` of launcher=xpk.

    Raises BadInput for a file that it did not write.
    """
    path = config_file()
    if not path.is_file():
        return {}
    try:
        found = yaml.safe_load(path.read_text())
    except yaml.YAMLError:
        raise BadInput(f"{path} is no YAML: delete it, and run `parity use` again") from None
    if not isinstance(found, dict) or (unknown := [k for k in found if k not in SAVED]):
        what = f"has the unknown key {unknown[0]}" if isinstance(found, dict) else "has no keys"
        raise BadInput(f"{path} {what}: delete it, and run `parity use` again")
    return found
