"""Which values of one run a parameter of the other holds: tied, exchanged or moved weights."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

LAYER = re.compile(r"\.(\d+)\.")
"""The number of a layer within a parameter's name."""

Bits = Mapping[str, int]
"""The exact hash of a parameter's values (`Fingerprint.bits`), by its name."""


def explanations(names: tuple[str, str], x: Bits, y: Bits, differing: Sequence[str]) -> str:
    """What explains that these parameters differ, in words; "" where nothing is seen.

    names: of the two runs, whose bits are `x` and `y`, for the same parameters
    """
    found = [*_tied(names[0], x, y, differing), *_tied(names[1], y, x, differing)]
    return "; ".join([*found, *_exchanged(x, y, differing)])


def _tied(run: str, own: Bits, others: Bits, differing: Sequence[str]) -> Iterator[str]:
    """Parameters with the bits of another one of the same run, as they have not in the other."""
    for name in differing:
        for source in own:
            alike = source != name and own[source] == own[name]
            if alike and others[source] != others[name] and own[source] == others[source]:
                yield f"{run}'s {name} holds the bits of {source}: tied"
                break


def _exchanged(x: Bits, y: Bits, differing: Sequence[str]) -> Iterator[str]:
    """Pairs of parameters that each hold the other's bits; those of whole layers together."""
    pairs = [
        (p, q)
        for i, p in enumerate(differing)
        for q in differing[i + 1 :]
        if x[p] == y[q] and x[q] == y[p]
    ]
    layers: dict[tuple[str, str], list[str]] = {}
    for p, q in pairs:
        numbers = _layers(p, q)
        if numbers is None:
            yield f"{p} and {q} are exchanged"
        else:
            layers.setdefault(numbers, []).append(LAYER.sub(".*.", p, count=1))
    for (i, j), kinds in layers.items():
        whole = {LAYER.sub(".*.", n, count=1) for n in x if f".{i}." in n}
        part = "" if whole == set(kinds) else f" in {', '.join(sorted(kinds))}"
        yield f"layers {i} and {j} are exchanged{part}"


def _layers(p: str, q: str) -> tuple[str, str] | None:
    """The layers of two parameters that are the same but for the layer."""
    if LAYER.sub(".*.", p, count=1) != LAYER.sub(".*.", q, count=1):
        return None
    i, j = sorted((LAYER.findall(p)[0], LAYER.findall(q)[0]), key=int)
    return i, j
