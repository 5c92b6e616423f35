"""Folders that look like the checkouts that engines train with."""

from __future__ import annotations

from pathlib import Path

import yaml

from harness.engines.torchprime.engine import CONFIG_FOLDER, SCRIPT


def torchprime_tree(folder: Path) -> Path:
    """A folder with the layout and the default configuration of torchprime."""
    (folder / CONFIG_FOLDER / "task").mkdir(parents=True)
    (folder / SCRIPT).write_text("")
    defaults = {
        "ici_mesh": {"data": 1, "fsdp": 4, "tensor": 1, "expert": 1, "context": 1},
        "profile_start_step": 3,
    }
    (folder / CONFIG_FOLDER / "default.yaml").write_text(yaml.safe_dump(defaults))
    (folder / CONFIG_FOLDER / "task" / "train.yaml").write_text("max_grad_norm: 1.0\n")
    return folder
