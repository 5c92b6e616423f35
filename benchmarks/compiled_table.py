"""Tables in Markdown of what steps compile to."""

from __future__ import annotations

import re

from harness.compiler.compiled import CompiledStep
from harness.ladder.result import Result
from harness.ladder.verdict import PairVerdict

KINDS = ("all-gather", "all-reduce", "reduce-scatter", "collective-permute")
COLUMNS = ("TFLOP", "GB accessed", "GB exchanged", "HBM, GB", *KINDS, "seconds")
"""Of one device and step; seconds are the compiler's, without machine code."""


def head(*first: str, last: str) -> str:
    """The first two lines of a table."""
    columns = (*first, *COLUMNS, last)
    return f"| {' | '.join(columns)} |\n|{'---|' * len(columns)}"


def row(*first: str, step: CompiledStep | None, last: str) -> str:
    """One line of it; `step` is None where nothing was compiled, and `last` says why."""
    cells = [""] * len(COLUMNS) if step is None or not step.compiles else numbers(step)
    why = "" if step is None or step.compiles else f" {step.error or step.unknown}"
    return f"| {' | '.join((*first, *cells, short(last + why)))} |"


def numbers(step: CompiledStep) -> list[str]:
    """What is known of a step, in the order of COLUMNS."""
    counts = step.counts()
    exchanged = sum(collective.total_bytes for collective in step.collectives)
    return [
        f"{step.flops / 1e12:.4g}", f"{step.bytes_accessed / 1e9:.4g}", f"{exchanged / 1e9:.4g}",
        f"{step.peak_bytes / 1e9:.4g}", *(str(counts.get(kind, 0)) for kind in KINDS),
        f"{step.seconds:.1f}",
    ]  # fmt: skip


def told(pair: PairVerdict) -> str:
    """What the rung `compiled` says, in a cell."""
    result = pair.rung("compiled")
    if result.result is Result.PASS:
        return "PASS"
    return f"{result.result.name}: {result.explanation}"


def short(text: str, most: int = 240) -> str:
    """Text for a cell: one line, without what would end the cell."""
    line = re.sub(r"\s+", " ", text).replace("|", "/").strip()
    return line if len(line) <= most else line[: most - 1] + "…"
