"""Canonical parameters in an engine's own layout: fused, stacked or transposed, there and back."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import numpy as np
import torch

from harness.models.layout import Layout

_TILED = re.compile(r"\{devices=\[([\d,]+)\]([\d,]+)( last_tile_dim_replicate)?\}")


def take_apart(layout: Layout, stored: torch.Tensor) -> list[torch.Tensor]:
    """The canonical tensors in a stored one, as views, in the order of `layout.holds`."""
    parts: Sequence[torch.Tensor] = [stored]
    if layout.stacked:
        parts = stored.unbind(layout.dim)
    elif layout.sizes:
        parts = stored.split(list(layout.sizes), layout.dim)
    return [part.transpose(-2, -1) if layout.transposed else part for part in parts]


def put_together(layout: Layout, parts: Sequence[torch.Tensor]) -> torch.Tensor:
    """The stored tensor of canonical ones: undoes `take_apart`."""
    held = [part.transpose(-2, -1) if layout.transposed else part for part in parts]
    return torch.stack(held, layout.dim) if layout.stacked else torch.cat(held, layout.dim)


def stored(
    weights: Mapping[str, torch.Tensor], layouts: Sequence[Layout]
) -> dict[str, torch.Tensor]:
    """Weights under canonical names as an engine with these layouts loads them."""
    rest = dict(weights)
    held = {each.stored: [rest.pop(name) for name in each.holds] for each in layouts}
    return rest | {each.stored: put_together(each, held[each.stored]) for each in layouts}


def sharding(layout: Layout, annotation: str) -> str:
    """The sharding annotation of each canonical tensor, from that of the stored one.

    Parts of a fused tensor are cut as it is. One that is not tiled has the same for all; a stack
    that is itself cut has none for its parts, and keeps its own, which the rung `sharding` refuses.
    """
    found = _TILED.fullmatch(annotation)
    if found is None:
        return annotation
    grid = [int(size) for size in found[1].split(",")]
    tiles = np.array([int(device) for device in found[2].split(",")]).reshape(grid)
    last = -1 if found[3] is None else -2  # behind the tensor's dimensions: the replicas of a tile
    if layout.stacked and grid[layout.dim] == 1:
        tiles = tiles.squeeze(layout.dim)
    if layout.transposed:
        tiles = tiles.swapaxes(last, last - 1)
    sizes, devices = (",".join(map(str, n)) for n in (tiles.shape, tiles.reshape(-1)))
    return f"{{devices=[{sizes}]{devices}{found[3] or ''}}}"
