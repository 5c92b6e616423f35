"""Where two models begin to compute otherwise: the outputs of their parts at step 0."""

from __future__ import annotations

from harness.ladder.distances import exceeds, relative_distance
from harness.record.evidence import Fingerprint, Output, Record


def where_outputs_part(a: Record, b: Record, limit: float) -> str:
    """The first part of the model whose output differs, in words that follow another text.

    "" where the models have no part in common. Each output is held against the other's by its
    name; outputs of different shapes are not compared.

    limit: relative distance from which on an output differs
    """
    theirs = {output.name: output for output in _outputs(b)}
    pairs = [(x, theirs[x.name]) for x in _outputs(a) if x.name in theirs]
    pairs = [(x, y) for x, y in pairs if x.shape == y.shape]
    if not pairs:
        return ""
    for x, y in pairs:
        distance = _distance(x, y)
        if exceeds(distance, limit):
            before = pairs.index((x, y))
            return (
                f"; the first output that differs is that of {x.name}, by {distance:.2g} of its "
                f"size ({before} of {len(pairs)} are computed before it, alike)"
            )
    return (
        f"; the outputs of {len(pairs)} modules agree, up to that of {pairs[-1][0].name}: it is "
        "the loss that is computed otherwise"
    )


def _outputs(record: Record) -> tuple[Output, ...]:
    return record.steps[0].outputs if record.steps else ()


def _distance(x: Output, y: Output) -> float:
    left, right = (Fingerprint(0, output.sketch, output.norm) for output in (x, y))
    return relative_distance(left, right)
