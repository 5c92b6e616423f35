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

from harness.compiler.compare import describe_difference
from harness.ladder.comparison import Comparison
from harness.ladder.distances import relative_difference
from harness.ladder.result import Finding, Limit, RungResult, summary
from harness.record.evidence import Record
from harness.record.graph import ModuleGraph

FLOPS = 0.01
"""Relative difference of matrix-product FLOPs between two engines that counts as none."""
BYTES = 0.25
"""The same for bytes of collectives, and for peak memory."""

FIXED = "fixed: two engines may compile differently"
IDENTICAL = Limit(0, "one engine ought to compile to one step")


def compiled_step(
    rung: str,
    c: Comparison,
    graphs: tuple[Record, Record],
    shown: str,
    executions: Sequence[float],
) -> RungResult:
    """What `rung` says where both compiled steps were dumped; `shown` is what counters say.

    executions: modules that each side executes in a step, of which the heaviest was dumped
    """
    steps = []
    for record in graphs:
        if record.graph is None:
            text = f"{record.label}: no compiled step was dumped"
            return RungResult.invalid(rung, text)
        step = record.graph
        steps.append(step)
        if not step.flops or not step.fingerprint:
            text = f"{record.label}: the step that was dumped multiplies no matrices"
            return RungResult.invalid(rung, text)
    x, y = steps
    name_a, name_b = c.names
    texts = describe_difference(name_a, x, name_b, y)
    findings = tuple(Finding(text) for text in texts)
    if c.a.engine == c.b.engine:
        return _identical(rung, x, y, findings, shown)
    measured = {
        "matrix-product FLOPs": (relative(x.flops, y.flops), FLOPS),
        "bytes of collectives": (relative(bytes_moved(x), bytes_moved(y)), BYTES),
        "peak memory": (relative(x.peak_memory_bytes, y.peak_memory_bytes), BYTES),
    }
    for what, (difference, limit) in measured.items():
        if difference is not None and difference > limit:
            text = f"{what} a step differs by {difference:.1%}" + (f": {texts[0]}" if texts else "")
            most = Limit(limit, FIXED)
            return RungResult.failed(rung, f"{text} ({shown})", difference, most, findings)
    unknown = [what for what, (difference, _) in measured.items() if difference is None]
    if unknown:
        text = f"{unknown[0]} a step is not known ({shown})"
        return RungResult.invalid(rung, text, findings)
    scope = " in the heaviest module of a step" if max(executions) > 1 else ""
    what, (difference, limit) = max(
        measured.items(), key=lambda item: (item[1][0] or 0.0) / item[1][1]
    )
    return RungResult.passed(
        rung, f"FLOPs, collectives and memory of the compiled step are alike "
        f"(furthest apart: {what}, {difference:.2%}); {shown}", difference, Limit(limit, FIXED),
        detects=f"{FLOPS:.0%} more FLOPs, {BYTES:.0%} more bytes moved or held{scope}",
        findings=findings,
    )  # fmt: skip


def _identical(
    rung: str, x: ModuleGraph, y: ModuleGraph, findings: tuple[Finding, ...], shown: str
) -> RungResult:
    if x.fingerprint == y.fingerprint:
        text = f"the compiled steps are identical; {shown}"
        return RungResult.passed(rung, text, 0, IDENTICAL, detects="any other instruction")
    text = summary(findings) if findings else "the compiled steps are not the same"
    return RungResult.failed(rung, f"{text}; {shown}", len(findings), IDENTICAL, findings)


def bytes_moved(step: ModuleGraph) -> int:
    """Bytes that all collectives of a step put out, on each device."""
    return sum(c.total_bytes for c in step.collectives)


def relative(x: int | None, y: int | None) -> float | None:
    """|x - y| over the larger of both; None where either is not known."""
    return None if x is None or y is None else relative_difference(x, y)
