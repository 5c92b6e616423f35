"""Loads what the reference saved. It is copied into the run, as an engine's injection."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from harness.probe.saved import Found
from harness.trainers.reference import WEIGHTS, module_of

TRAINING: dict[str, Any] = {}
"""`path`: of the file that says what is trained."""


def inject(training: str) -> None:
    """There is nothing to make identical; `training` is the file that says what is trained."""
    TRAINING["path"] = training


def load_saved(folder: str) -> Found:
    """What `load_state_dict` of the reference's module makes of its checkpoint."""
    t = json.loads(Path(TRAINING["path"]).read_text())
    with torch.device("meta"):
        model = module_of(t)
    state = load_file(Path(folder) / WEIGHTS)
    missing, unexpected = model.load_state_dict(state, strict=False, assign=True)
    model.tie()
    tied = {"lm_head.weight"} if t["model"]["tie_embeddings"] else set()
    return Found(
        "load_state_dict",
        stored=list(state),
        missing=[name for name in missing if name not in tied],
        unexpected=list(unexpected),
        parameters={name: p.detach() for name, p in model.named_parameters() if not p.is_meta},
    )
