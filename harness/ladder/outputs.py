"""Where two models begin to compute otherwise: the outputs of their parts at step 0."""

from __future__ import annotations

from collections.abc import Iterator

from harness.ladder.distances import exceeds, largest, sums_distance
from harness.record.evidence import Output, Record

CERTAINTY = 4.4
"""An output's sketch has two sums: with a probability of 95 % the estimate of a difference is at
least 1/4.4 of it (the 5 % quantile of chi-squared with 2 degrees of freedom is 0.103)."""


def where_outputs_part(a: Record, b: Record, limit: float) -> str:
    """The first part of the model whose output differs, in words that follow another text.

    "" where the models have no part in common. Each output is held against the other's by its
    name; outputs of different shapes are not compared.

    limit: relative distance from which on an output differs
    """
    distances = list(_distances(a, b))
    if not distances:
        return ""
    for before, (name, distance) in enumerate(distances):
        if exceeds(distance, limit):
            return (
                f"; the first output that differs is that of {name}, by {distance:.2g} of its "
                f"size ({before} of {len(distances)} are computed before it, alike)"
            )
    return (
        f"; the outputs of {len(distances)} modules agree, up to that of {distances[-1][0]}: it is "
        "the loss that is computed otherwise"
    )


def last_output(a: Record, b: Record) -> tuple[str, float] | None:
    """The last part that two models have in common, as a rule their logits, and its distance.

    None where they have no part in common. Parts before it may have one name and another meaning in
    two engines; what the loss is made of has not.
    """
    distances = list(_distances(a, b))
    return distances[-1] if distances else None


def last_output_distance(a: Record, b: Record) -> float | None:
    """How far the last output is apart."""
    last = last_output(a, b)
    return None if last is None else last[1]


def worst_output_distance(a: Record, b: Record) -> float | None:
    """The largest distance of any output of two runs of one engine: of few sums each, one of them
    may be lucky."""
    found = [distance for _, distance in _distances(a, b)]
    return largest(found) if found else None


def _distances(a: Record, b: Record) -> Iterator[tuple[str, float]]:
    """Each output that both have in one shape, in the order in which it was computed."""
    theirs = {output.name: output for output in _outputs(b)}
    for x in _outputs(a):
        y = theirs.get(x.name)
        if y is not None and x.shape == y.shape:
            yield x.name, sums_distance(x, y)


def _outputs(record: Record) -> tuple[Output, ...]:
    return record.steps[0].outputs if record.steps else ()
