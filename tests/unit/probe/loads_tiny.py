"""The injection of a tiny trainer that saves: what its users do with what it saved."""

from __future__ import annotations

from pathlib import Path

import torch

from harness.probe.saved import Found


def inject() -> None:
    """There is nothing to make identical."""


def load_saved(folder: str) -> Found:
    """The weights, of which one has another name than its model has it."""
    weights = torch.load(Path(folder) / "saved.pt", weights_only=True)["weights"]
    head = weights.pop("head.weight")
    stored = ["embed.weight", "module.head.weight"]
    return Found("torch.load", stored, None, ["head.weight"], stored[1:], {**weights, "h": head})
