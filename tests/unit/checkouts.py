"""Folders that look like the checkouts that engines train with."""

from __future__ import annotations

from pathlib import Path

import yaml

from harness.engines.torchprime.engine import CONFIGS, SCRIPT


def torchprime_tree(folder: Path) -> Path:
    """A folder with the layout and the default configuration of torchprime."""
    (folder / CONFIGS / "task").mkdir(parents=True)
    (folder / SCRIPT).write_text("")
    defaults = {
        "ici_mesh": {"data": 1, "fsdp": 4, "tensor": 1, "expert": 1, "context": 1},
        "profile_start_step": 3,
    }
    (folder / CONFIGS / "default.yaml").write_text(yaml.safe_dump(defaults))
    (folder / CONFIGS / "task" / "train.yaml").write_text("max_grad_norm: 1.0\n")
    return folder
