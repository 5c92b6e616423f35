"""How an engine keeps parameters that are not the canonical ones: fused, stacked or transposed.

The probe imports it in the trainer's process: it stays on the standard library.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from harness.base.errors import CannotTrain


@dataclass(frozen=True)
class Layout:
    """A parameter of an engine that is not a canonical one, but holds such.

    stored:     its name in the engine's model
    holds:      names of the canonical parameters in it, in their order
    dim:        dimension of the stored one along which they follow each other
    sizes:      the extent of each along it; none where it holds a single one, or is a stack
    stacked:    they are stacked along `dim`, which they themselves do not have
    transposed: the last two dimensions of each are exchanged in it

    Examples:
        Layout("attn.qkv.weight", ("attn.q.weight", "attn.k.weight", "attn.v.weight"),
               sizes=(64, 32, 32))
        Layout("mlp.down", ("mlp.down_proj.weight",), transposed=True)
    """

    stored: str
    holds: tuple[str, ...]
    dim: int = 0
    sizes: tuple[int, ...] = ()
    stacked: bool = False
    transposed: bool = False

    @staticmethod
    def of(raw: dict[str, Any]) -> Layout:
        """The Layout that `dataclasses.asdict` and JSON made `raw` of."""
        fields: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in raw.items()}
        return Layout(**fields)


def stored_spec(layout: Layout, spec_of: Callable[[str], list[Any] | None]) -> list[Any]:
    """The partition spec of a stored parameter, from those of the canonical ones.

    Raises CannotTrain where they differ, as one tensor has one.
    """
    spec, *others = [list(spec_of(name) or ()) for name in layout.holds]
    if any(other != spec for other in others):
        raise CannotTrain(
            f"case.sharding: {', '.join(layout.holds)} are one parameter here ({layout.stored}), "
            "and have to be sharded alike"
        )
    if layout.transposed:
        spec[-2:] = spec[:-3:-1]
    if layout.stacked:
        spec.insert(layout.dim, None)
    return spec
