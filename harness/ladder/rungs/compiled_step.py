"""Compares two compiled steps: what is an identity, what has a tolerance, what is only shown.

Two versions of one engine ought to compile to the same step: there everything is exact. Two
engines may compile differently and still be at parity:

- FLOPs of the matrix products have a tolerance: more of them is more work, whoever schedules it;
- bytes of collectives and peak memory have a wider one: they are the partitioner's choice, which
  follows how a trainer writes the same mathematics;
- numbers of instructions and collectives are shown only: the compiler splits and merges them.
"""

from __future__ import annotations

from collections.abc import Sequence

from harness.compiler import ModuleGraph, describe_difference, from_json
from harness.ladder.comparison import Comparison
from harness.ladder.verdict import Finding, Result, RungResult
from harness.record.files import Record

FLOPS = 0.01
"""Relative difference of matrix-product FLOPs between two engines that counts as none."""
BYTES = 0.25
"""The same for bytes of collectives, and for peak memory."""

SOURCE = "harness.ladder.rungs.compiled_step: two engines may compile differently"
EXACT = "one engine ought to compile to one step"


def compiled_step(
    c: Comparison, graphs: tuple[Record, Record], shown: str, executions: Sequence[float]
) -> RungResult:
    """The graph rung where both compiled steps were dumped; `shown` is what counters say.

    executions: modules that each side executes in a step, of which the heaviest was dumped
    """
    steps = []
    for record in graphs:
        if record.graph is None:
            text = f"{record.label}: no compiled step was dumped"
            return RungResult("graph", Result.INVALID, text)
        (step,) = from_json(record.graph)
        steps.append(step)
        if not step.flops or not step.fingerprint:
            text = f"{record.label}: the step that was dumped multiplies no matrices"
            return RungResult("graph", Result.INVALID, text)
    x, y = steps
    name_a, name_b = c.names
    texts = describe_difference(name_a, x, name_b, y)
    findings = tuple(Finding(text) for text in texts)
    if c.a.engine == c.b.engine:
        return _exact(x, y, findings, shown)
    measured = {
        "matrix-product FLOPs": (relative(x.flops, y.flops), FLOPS),
        "bytes of collectives": (relative(moved(x), moved(y)), BYTES),
        "peak memory": (relative(x.peak_memory_bytes, y.peak_memory_bytes), BYTES),
    }
    for what, (difference, limit) in measured.items():
        if difference is not None and difference > limit:
            text = f"{what} a step differs by {difference:.1%}" + (f": {texts[0]}" if texts else "")
            return RungResult(
                "graph", Result.FAIL, f"{text} ({shown})", difference, limit, SOURCE, "", findings
            )
    unknown = [what for what, (difference, _) in measured.items() if difference is None]
    if unknown:
        text = f"{unknown[0]} a step is not known ({shown})"
        return RungResult("graph", Result.INVALID, text, findings=findings)
    scope = " in the heaviest module of a step" if max(executions) > 1 else ""
    what, (difference, limit) = max(
        measured.items(), key=lambda item: (item[1][0] or 0.0) / item[1][1]
    )
    return RungResult(
        "graph", Result.PASS, f"FLOPs, collectives and memory of the compiled step are alike "
        f"(furthest apart: {what}, {difference:.2%}); {shown}", difference, limit, SOURCE,
        f"{FLOPS:.0%} more FLOPs, {BYTES:.0%} more bytes moved or held{scope}", findings,
    )  # fmt: skip


def _exact(x: ModuleGraph, y: ModuleGraph, findings: tuple[Finding, ...], shown: str) -> RungResult:
    if x.fingerprint == y.fingerprint:
        return RungResult(
            "graph", Result.PASS, f"the compiled steps are identical; {shown}", 0, 0, EXACT,
            "any other instruction",
        )  # fmt: skip
    text = findings[0].text if findings else "the compiled steps are not the same"
    more = f" (and {len(findings) - 1} more)" if len(findings) > 1 else ""
    return RungResult(
        "graph", Result.FAIL, f"{text}{more}; {shown}", len(findings), 0, EXACT, "", findings
    )


def moved(step: ModuleGraph) -> int:
    """Bytes that all collectives of a step put out, on each device."""
    return sum(c.total_bytes for c in step.collectives)


def relative(x: int | None, y: int | None) -> float | None:
    """|x - y| over the larger of both; None where either is not known."""
    if x is None or y is None:
        return None
    return abs(x - y) / max(x, y) if max(x, y) else 0.0
