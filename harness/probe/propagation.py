"""The sharding that XLA gives to what is computed from an annotated tensor and has none itself."""

from __future__ import annotations

import re
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

REPLICATED, TILED, PARTIAL = 0, 3, 5
"""Of torch_xla's `ShardingType`."""

_TILED = re.compile(
    r"\{devices=\[([\d,]+)\](?:<=\[([\d,]+)\](?:T\(([\d,]+)\))?|([\d,]+))"
    r"( last_tile_dim_replicate)?\}"
)


class Sharding(NamedTuple):
    """The arguments of an `OpSharding` of torch_xla: nested lists of device numbers.

    groups:     of devices that hold the same part, numbered, as the parts lie in the tensor
    replicated: the devices of each group
    """

    tiles: list[Any]
    groups: list[Any]
    replicated: list[list[int]]
    kind: int


def reduced(annotation: str, dimension: int) -> Sharding:
    """The sharding of a mean over one dimension of a tensor.

    The dimensions that are left are cut as before; devices that held other parts of the dimension
    that is gone hold the same.

    annotation: of the tensor, as HLO has it
    dimension:  of the tensor, from its end: -1 is the last
    Raises ValueError for an annotation of another form.

    >>> reduced("{devices=[4,1]0,1,2,3}", -1)
    Sharding(tiles=[0, 1, 2, 3], groups=[], replicated=[], kind=3)
    """
    if annotation in ("", "{replicated}"):
        return Sharding([], [], [], REPLICATED)
    found = _TILED.fullmatch(annotation)
    if found is None:
        raise ValueError(f"a sharding of this form is not known: {annotation}")
    shape, iota, order, listed, partial = found.groups()
    if listed is not None:
        devices = np.array(_ints(listed))
    else:
        devices = np.arange(np.prod(_ints(iota))).reshape(_ints(iota))
        devices = devices if order is None else devices.transpose(_ints(order))
    tiles = devices.reshape(_ints(shape))
    if partial is None:
        tiles = tiles[..., np.newaxis]
    tiles = np.moveaxis(tiles, dimension - 1, -2)  # the last axis is no dimension
    kept = tiles.shape[:-2]
    if max(kept, default=1) == 1:
        return Sharding([], [], [], REPLICATED)
    tiles = tiles.reshape(*kept, -1)
    if tiles.shape[-1] == 1:
        return Sharding(tiles[..., 0].tolist(), [], [], TILED)
    parts = tiles.reshape(-1, tiles.shape[-1])
    groups: npt.NDArray[Any] = np.arange(len(parts)).reshape(kept)
    return Sharding(tiles.tolist(), groups.tolist(), np.sort(parts).tolist(), PARTIAL)


def _ints(text: str) -> list[int]:
    return [int(number) for number in text.split(",")]
