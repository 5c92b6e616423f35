"""Loads what a trainer saved as its users would, once it has trained."""

from __future__ import annotations

import traceback
from dataclasses import dataclass, field
from typing import Any

import torch

from harness.probe.fingerprint import fingerprints
from harness.probe.spec import Spec
from harness.probe.writer import Writer


@dataclass(frozen=True)
class Found:
    """What the injection's `load_saved` finds in a folder, by the fields of
    `harness.record.evidence.Loaded`; `parameters` are the loaded tensors, on the host."""

    how: str
    stored: list[str] = field(default_factory=list)
    refused: str | None = None
    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    parameters: dict[str, torch.Tensor] = field(default_factory=dict)


def load_saved(spec: Spec, injection: Any, writer: Writer) -> None:
    """Write loaded.json: what comes of the folder that `spec` names. What it raises is told."""
    if spec.saving is None or spec.saving.folder is None:
        return
    try:
        found: Found = injection.load_saved(spec.saving.folder)
    except Exception as error:  # whatever a user would be told
        traceback.print_exc()
        found = Found("its own way", refused=f"{type(error).__name__}: {error}"[:2000])
    names = sorted(found.parameters)
    values = fingerprints([found.parameters[name] for name in names], lambda _: None)
    writer.loaded(
        {
            "how": found.how,
            "stored": sorted(found.stored),
            "refused": found.refused,
            "missing": sorted(found.missing),
            "unexpected": sorted(found.unexpected),
            "parameters": dict(zip(names, values, strict=True)),
        }
    )
