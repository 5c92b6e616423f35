"""The rung of initial values."""

from __future__ import annotations

from harness.config.case import ALIGNED
from harness.ladder.comparison import Comparison
from harness.ladder.distances import by_name, exceeds, nan_last, relative_distance, worst
from harness.ladder.exchanged import explanations
from harness.ladder.result import EQUAL, Finding, RungResult
from harness.ladder.rung import Rung

COLLISION = 1e-3
"""Tensors with equal bits are taken for equal, unless their sketches are further apart than sums
in another order can be."""


def init(c: Comparison) -> RungResult:
    """The value of every parameter before the first step, bit by bit."""
    name_a, name_b = c.names
    left, right = by_name(c.a), by_name(c.b)
    if not left or not right or left.keys() != right.keys():
        return RungResult.invalid("init", "the runs do not have the same parameters")
    distances, findings = {}, []
    for name in left:
        x, y = left[name].initial, right[name].initial
        if x is None or y is None:
            missing = name_a if x is None else name_b
            return RungResult.invalid("init", f"{missing}: {name} was not observed")
        distance = relative_distance(x, y)
        # Sketches may round to equal values where single bits differ, and bits may collide.
        distances[name] = distance if x.bits == y.bits else max(distance, 1e-12)
        if x.bits != y.bits or exceeds(distance, COLLISION):
            findings.append(
                Finding(
                    f"{name}: relative distance {distance:.2g} (norms {x.norm:.6g} and "
                    f"{y.norm:.6g})", None, name, x.norm, y.norm,
                )
            )  # fmt: skip
    if not findings:
        text = f"{len(left)} parameters are bitwise equal"
        return RungResult.passed("init", text, 0.0, EQUAL, detects="one bit of one weight")
    name, value = worst(distances)
    findings.sort(key=lambda f: -nan_last(distances[str(f.parameter)]))
    drawn = sum(d > 0.5 for d in distances.values())
    text = f"{len(findings)} of {len(left)} parameters start from other values; most: {name}, "
    text += f"relative distance {value:.2g}"
    if drawn:
        text += f"; {drawn} are unrelated draws"
    p, q = ({n: p.initial.bits for n, p in side.items() if p.initial} for side in (left, right))
    why = explanations((name_a, name_b), p, q, [str(f.parameter) for f in findings])
    text = f"{why}; {text}" if why else text
    return RungResult.failed("init", text, value, EQUAL, tuple(findings))


RUNG = Rung(
    name="init",
    what="value of every parameter before the first step, bit by bit",
    judge=init,
    follows=("sharding",),
    prepared=(ALIGNED,),
)
