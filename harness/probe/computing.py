"""What changes a model's numbers and is in no argument of its layers: autocasting and dropout."""

from __future__ import annotations

import torch

from harness.probe.parameters import canonical_name


def autocast(device: str) -> str | None:
    """The dtype that operations on this type of device are cast to here and now; None for none."""
    if not torch.is_autocast_enabled(device):
        return None
    return str(torch.get_autocast_dtype(device)).removeprefix("torch.")


def dropout(root: torch.nn.Module) -> dict[str, float]:
    """The shares that parts of a model drop in training, by their names with `*` for layers.

    A part is a dropout layer, or a module with an attribute such as `attention_dropout`, which it
    hands to a function.
    """
    found: dict[str, float] = {}
    for name, module in root.named_modules():
        place = ".".join("*" if part.isdigit() else part for part in _parts(name))
        if isinstance(module, torch.nn.modules.dropout._DropoutNd):
            found[place] = float(module.p)
            continue
        for attribute, value in vars(module).items():
            if "dropout" in attribute and type(value) in (int, float):
                found[f"{place}.{attribute}".lstrip(".")] = float(value)
    return {place: share for place, share in sorted(found.items()) if share > 0}


def _parts(name: str) -> list[str]:
    return canonical_name(f"{name}.").strip(".").split(".")
