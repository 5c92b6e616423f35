"""Tables of a pair of runs: parameters and their sharding, step times, the compiled step."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from harness.base.errors import BadInput
from harness.base.text import printable
from harness.base.typed import plain_json
from harness.compiler.compiled import CompiledStep, from_json
from harness.ladder.distances import by_name, relative_distance
from harness.record.evidence import Fingerprint, Parameter, Record
from harness.record.graph import ModuleGraph
from harness.record.layout import COMPILED
from harness.report.step_times import step_times
from harness.report.text import MISSING, format_number

PARAMETERS_SHOWN = 400
ROWS_SHOWN = 500


@dataclass(frozen=True)
class Table:
    """A table as text. Its first column names the rows.

    left_out: rows that are not shown
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    left_out: int = 0


def tables(names: tuple[str, str], a: Record | None, b: Record | None) -> tuple[Table, ...]:
    """Every table of a pair for which there is evidence."""
    sides = tuple((name, record) for name, record in zip(names, (a, b), strict=True) if record)
    found = [_parameters(names, a, b), _step_times(sides), _compiled(sides), _predicted(sides)]
    return tuple(table for table in found if table is not None and table.rows)


def number_table(title: str, head: str, series: Mapping[str, Mapping[int, float | None]]) -> Table:
    """Numbers by step, a column for each series: what a chart draws, for those who cannot see it.

    Of a long run every so many steps are shown, the first and the last among them.
    """
    steps = sorted({step for values in series.values() for step in values})
    kept = steps
    if len(steps) > ROWS_SHOWN:
        stride = -(-len(steps) // ROWS_SHOWN)
        kept = sorted({*steps[::stride], steps[-1]})
    rows = tuple(
        (str(step), *(_exact(values.get(step)) for values in series.values())) for step in kept
    )
    return Table(title, (head, *map(printable, series)), rows, len(steps) - len(kept))


def _exact(value: float | None) -> str:
    return MISSING if value is None else format_number(value, 9)


def _parameters(names: tuple[str, str], a: Record | None, b: Record | None) -> Table | None:
    """Every parameter of either run: where it lies, and how far the runs' values are apart."""
    if a is None or b is None or not (a.parameters or b.parameters):
        return None
    left, right = by_name(a), by_name(b)
    every = list(dict.fromkeys([*left, *right]))
    columns = (
        "parameter", "shape", "dtype", *(f"sharding in {name}" for name in names),
        "init", "gradient", "after step 0", "at the end",
    )  # fmt: skip
    rows = tuple(_parameter(name, left.get(name), right.get(name)) for name in every)
    title = "Parameters: sharding, and relative distance of the runs' values"
    return Table(title, columns, rows[:PARAMETERS_SHOWN], max(0, len(rows) - PARAMETERS_SHOWN))


def _parameter(name: str, x: Parameter | None, y: Parameter | None) -> tuple[str, ...]:
    one = x or y
    assert one is not None
    sharding = [MISSING if p is None else p.sharding or "replicated" for p in (x, y)]
    stages: Sequence[Callable[[Parameter], Fingerprint | None]] = (
        lambda p: p.initial,
        lambda p: p.gradient,
        lambda p: p.after[0] if p.after else None,
        lambda p: p.final,
    )
    distances = [_distance(stage(x) if x else None, stage(y) if y else None) for stage in stages]
    shape = " × ".join(map(str, one.shape)) or "scalar"
    return tuple(map(printable, (name, shape, one.dtype, *sharding, *distances)))


def _distance(x: Fingerprint | None, y: Fingerprint | None) -> str:
    if x is None or y is None:
        return MISSING
    if x.bits == y.bits and x.norm == y.norm:
        return "equal bits"
    return format_number(relative_distance(x, y))


def _step_times(sides: Sequence[tuple[str, Record]]) -> Table | None:
    rows = []
    for name, record in sides:
        times = step_times(record)
        if times is None:
            continue
        interval = MISSING
        if times.low is not None:
            interval = f"{format_number(times.low, 4)} to {format_number(times.high, 4)}"
        rows.append((name, format_number(times.median, 4), interval, str(times.samples)))
    columns = ("run", "median, s a step", "95 % interval", "steady windows")
    return Table("Step times", columns, tuple(rows)) if rows else None


def _compiled(sides: Sequence[tuple[str, Record]]) -> Table | None:
    """What each run's own compiler made of its step, where it was dumped."""
    found = [(name, record.graph) for name, record in sides if record.graph is not None]
    if not found:
        return None
    rows = [
        ("floating-point operations", *(f"{graph.flops:,}" for _, graph in found)),
        ("peak memory, bytes", *(_bytes(graph.peak_memory_bytes) for _, graph in found)),
        ("arguments, bytes", *(_bytes(graph.parameters_bytes) for _, graph in found)),
        ("instructions", *(f"{graph.instructions:,}" for _, graph in found)),
    ]
    for kind in sorted({c.kind for _, graph in found for c in graph.collectives}):
        rows.append((kind, *(_collectives(graph, kind) for _, graph in found)))
    return Table("The compiled step, on one device", ("", *(n for n, _ in found)), tuple(rows))


def _bytes(count: int | None) -> str:
    return MISSING if count is None else f"{count:,}"


def _collectives(graph: ModuleGraph, kind: str) -> str:
    calls = [collective for collective in graph.collectives if collective.kind == kind]
    executions, size = sum(c.count for c in calls), sum(c.total_bytes for c in calls)
    return f"{executions:,} of {size:,} bytes in all"


def _predicted(sides: Sequence[tuple[str, Record]]) -> Table | None:
    """What the TPU's own compiler says of each run's step, by target, where that was asked for."""
    rows = []
    for name, record in sides:
        for step in _compiled_steps(record):
            state = step.error or step.unknown or "compiles"
            numbers = (MISSING, MISSING, MISSING)
            if step.compiles:
                between = _bytes(step.exchanged_bytes) if step.slices > 1 else MISSING
                numbers = (f"{step.peak_bytes:,}", f"{step.flops:,}", between)
            rows.append((name, step.target, printable(state), *numbers))
    columns = (
        "run", "target", "state", "peak HBM, bytes", "floating-point operations a step",
        "received from other slices a step, bytes",
    )  # fmt: skip
    return Table("Compiled for TPUs, on one device", columns, tuple(rows)) if rows else None


def _compiled_steps(record: Record) -> Iterator[CompiledStep]:
    """What can be read of them; of what cannot, the rung `compiled` says why."""
    for path in sorted((record.directory / COMPILED).glob("*.json")):
        with contextlib.suppress(BadInput):
            yield from_json(plain_json(path.read_bytes()))
