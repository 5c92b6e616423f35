"""A slice of TPUs to compile for: it need not be there."""

from __future__ import annotations

import re
from dataclasses import dataclass

from harness.base.errors import BadInput

_TOPOLOGY = re.compile(r"[a-z]+\d+[a-z]*:\d+(x\d+){1,2}")


@dataclass(frozen=True)
class Target:
    """Where a step is compiled for.

    topology: libtpu's name of one slice: chip and size, such as "v6e:16x16" or "v5p:4x4x4"
    slices:   number of such slices, joined by the data center's network
    """

    topology: str
    slices: int = 1

    @property
    def chip(self) -> str:
        """Such as "v6e"."""
        return self.topology.partition(":")[0]

    @property
    def name(self) -> str:
        """As a person writes it."""
        return self.topology if self.slices == 1 else f"{self.slices} × {self.topology}"

    @property
    def file_name(self) -> str:
        """The same for a file."""
        chip, _, size = self.topology.partition(":")
        return f"{chip}-{size}" + ("" if self.slices == 1 else f"-slices{self.slices}")


def parse_targets(topologies: list[str], slices: int) -> tuple[Target, ...]:
    """The targets of `target=…` and `slices=…`. Raises BadInput for what is written wrongly.

    Whether there is such a slice, libtpu alone knows.
    """
    if slices < 1:
        raise BadInput(f"slices={slices}: it has to be at least 1")
    for topology in topologies:
        if not _TOPOLOGY.fullmatch(topology):
            raise BadInput(
                f"target={topology}: a target is a chip and the size of a slice, such as v6e:2x2, "
                "v5p:2x2x1 or tpu7x:1x2x1"
            )
    if len(set(topologies)) != len(topologies):
        raise BadInput(f"target={topologies}: it names a slice twice")
    return tuple(Target(topology, slices) for topology in topologies)
